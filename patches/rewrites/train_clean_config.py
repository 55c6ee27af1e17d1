"""QLoRA's adapter does not carry the width of its training into every later load."""

from patches.edits import Before
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1635, #1217 (problem 20)",
    why="QLoRA left `quantization_config` in config.json, and every later load was 4-bit, unasked.",
    not_outside="The save is in `train()`.",
    drop_when="upstream saves a config without it",
    edits=(
        Before(
            "llava/train/train.py",
            "train",
            find="model.config.save_pretrained(training_args.output_dir)",
            put='model.config.__dict__.pop("quantization_config", None)',
        ),
    ),
    proven_by="test_alive_training.py::test_qlora_leaves_no_quantization_in_the_config",
)
