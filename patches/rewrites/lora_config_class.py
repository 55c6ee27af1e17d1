"""A LoRA's config is read with upstream's own class."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.BACKPORT,
    origin="upstream after the pin, at c121f0432da2; haotian-liu/LLaVA#974",
    why="`AutoConfig` reads model_type `llava` as transformers' own LLaVA.",
    not_outside="The call is inside the function.",
    drop_when="the pin moves past upstream's own change",
    edits=(
        Replace(
            "llava/model/builder.py",
            "load_pretrained_model",
            find="lora_cfg_pretrained = AutoConfig.from_pretrained(model_path)",
            put="""
                from llava.model.language_model.llava_llama import LlavaConfig
                lora_cfg_pretrained = LlavaConfig.from_pretrained(model_path)
            """,
        ),
    ),
)
