"""A batch that teaches nothing ends the run."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#661, #375, #1167 (problems 2, 3)",
    why="`WARNING: tokenization mismatch` masks whole records, ChatML ones all of them: the loss is shown as 0.0, "
    "and the run ends well, having learned nothing.",
    not_outside="The masks meet in the collator.",
    drop_when="upstream's masks are right for every template",
    edits=(
        Before(
            "llava/train/train.py",
            "DataCollatorForSupervisedDataset.__call__",
            find="input_ids = torch.nn.utils.rnn.pad_sequence(*__args)",
            put="""
                guards.check_taught(labels)
            """,
        ),
    ),
    proven_by="test_alive_training.py::test_a_batch_without_a_label_ends_the_run",
    imports=(Import("llava/train/train.py", "DataCollatorForSupervisedDataset.__call__", ("guards",)),),
)
