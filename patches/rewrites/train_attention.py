"""`train_mem` uses flash attention where it can run, else SDPA."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#36, #275, #641 (problem 12)",
    why="The launcher's entry point hard-codes flash attention, which many GPUs and every CPU lack.",
    not_outside="It is the argument of its only call.",
    drop_when="upstream falls back by itself",
    edits=(
        Replace(
            "llava/train/train_mem.py",
            "",
            find='train(attn_implementation="flash_attention_2")',
            put="""
                from llava_finetune.upstream import placement
                train(attn_implementation=placement.choose_attention(True, placement.choose_device("auto")))
            """,
        ),
    ),
)
