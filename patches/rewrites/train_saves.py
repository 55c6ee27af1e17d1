"""What would fail when saving fails before the first step, and QLoRA's output loads as asked."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1144 (problem 11)",
    why="A generation config that cannot be saved cost the whole run, at its end.",
    not_outside="The check belongs between the building of the model and the first step.",
    drop_when="upstream checks before step 0",
    edits=(
        Before(
            "llava/train/train.py",
            "train",
            find="if list(pathlib.Path(training_args.output_dir).glob(__pattern)): ...",
            put="""
                guards.mend_generation_config(model)
                guards.dry_save(model, training_args.output_dir)
            """,
        ),
    ),
    proven_by="test_alive_training.py::test_a_generation_config_that_cannot_be_saved_ends_no_run",
    imports=(Import("llava/train/train.py", "train", ("guards",)),),
)
