"""A failing import of the model classes shows its own error."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1101, #1208, #1840 (problem 5)",
    why="`except: pass` around the imports hid the true error; users saw `cannot import name LlavaLlamaForCausalLM`. "
    "The MPT class, broken upstream, is asked for by name only.",
    not_outside="The imports run when the package is imported.",
    drop_when="upstream imports without try",
    edits=(
        Replace(
            "llava/model/__init__.py",
            "",
            find="try:\n    __llama\n    from .language_model.llava_mpt import LlavaMptForCausalLM, LlavaMptConfig\n"
            "    from .language_model.llava_mistral import LlavaMistralForCausalLM, LlavaMistralConfig\n"
            "except:\n    pass",
            put="""
                __llama
                from .language_model.llava_mistral import LlavaMistralForCausalLM, LlavaMistralConfig


                def __getattr__(name):
                    if name in ("LlavaMptForCausalLM", "LlavaMptConfig"):
                        from .language_model import llava_mpt
                        return getattr(llava_mpt, name)
                    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
            """,
        ),
    ),
    proven_by="test_upstream_tools.py::test_a_failing_import_of_a_model_class_shows_its_own_error",
    drop_if=(Absent("llava/model/__init__.py", "", "try: ...\nexcept: ..."),),
)
