"""4- and 8-bit loading keeps projector, tower and head in 16 bit."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#744, #433, #1519 (problems 9, 20)",
    why="`load_in_4bit` is no model argument any more, and without a skip list the projector is packed before its "
    "weights are loaded: `size mismatch for model.mm_projector.0.weight`.",
    not_outside="The keywords are made inside the function.",
    drop_when="upstream passes a config with full module names",
    edits=(
        Replace(
            "llava/model/builder.py",
            "load_pretrained_model",
            find="if load_8bit:\n    __eight\nelif load_4bit:\n    __four\nelse:\n    __sixteen",
            put="__sixteen\nkwargs.update(weights.quantization(load_8bit, load_4bit, dtype))",
        ),
    ),
    proven_by="test_upstream_loads.py::test_quantised_models_keep_projector_tower_and_head_in_16_bit[load_4bit-llava-1.5]",
    needs=("builder_dtype",),
    imports=(Import("llava/model/builder.py", "load_pretrained_model", ("weights",)),),
)
