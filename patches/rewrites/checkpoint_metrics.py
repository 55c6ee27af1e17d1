"""`Trainer._save_checkpoint` no longer takes metrics."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: TypeError at the first checkpoint on transformers 5",
    why="`_save_checkpoint` lost its `metrics` argument.",
    not_outside="The override passes the argument on.",
    drop_when="upstream passes two arguments",
    edits=(
        Replace(
            "llava/train/llava_trainer.py",
            "LLaVATrainer._save_checkpoint",
            find="super(LLaVATrainer, self)._save_checkpoint(model, trial, metrics)",
            put="super(LLaVATrainer, self)._save_checkpoint(model, trial)",
        ),
    ),
    proven_by="test_alive_training.py::test_a_checkpoint_is_saved_with_two_arguments",
)
