"""`train_mem` uses flash attention where it can run, else SDPA."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

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
                train(attn_implementation=placement.choose_attention(True, placement.choose_device("auto")))
            """,
        ),
    ),
    proven_by="test_alive_training.py::test_the_launchers_entry_point_asks_for_attention_that_runs",
    imports=(Import("llava/train/train_mem.py", "", ("placement",)),),
    drop_if=(Absent("llava/train/train_mem.py", "", '"flash_attention_2"'),),
)
