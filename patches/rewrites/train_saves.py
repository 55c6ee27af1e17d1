"""What would fail when saving fails before the first step, and QLoRA's output loads as asked."""

from patches.edits import Before
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1144, #1635, #1217 (problems 11, 20)",
    why="A generation config that cannot be saved cost the whole run; QLoRA left `quantization_config` in config.json, "
    "and every later load was 4-bit, unasked.",
    not_outside="The saves are in `train()`.",
    drop_when="upstream checks before step 0 and saves a clean config",
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
        Before(
            "llava/train/train.py",
            "train",
            find="model.config.save_pretrained(training_args.output_dir)",
            put='model.config.__dict__.pop("quantization_config", None)',
        ),
    ),
)
