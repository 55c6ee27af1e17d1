"""SDPA by default; flash attention when asked for and possible."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#36, #275, #1085 (problem 12)",
    why="Asking for flash attention where it is not installed, or on a GPU before Ampere, ends in an error.",
    not_outside="The keyword is made inside the function.",
    drop_when="upstream falls back by itself",
    edits=(
        Replace(
            "llava/model/builder.py",
            "load_pretrained_model",
            find="if use_flash_attn:\n    kwargs['attn_implementation'] = 'flash_attention_2'",
            put="kwargs.setdefault('attn_implementation', placement.choose_attention(use_flash_attn, device))",
        ),
    ),
    proven_by="test_alive_models.py::test_flash_attention_that_cannot_run_falls_back",
    imports=(Import("llava/model/builder.py", "load_pretrained_model", ("placement",)),),
)
