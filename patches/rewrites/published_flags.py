"""Flags of upstream's published launch scripts keep their names."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `Some specified arguments are not used by the HfArgumentParser: ['--warmup_ratio', '0.03']`",
    why="`--evaluation_strategy` and `--warmup_ratio` have other names today, `--tf32` is an error without TF32 units.",
    not_outside="The parser is built inside `train()`.",
    drop_when="upstream's scripts use the new names",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find="parser.parse_args_into_dataclasses()",
            put="parser.parse_args_into_dataclasses(args=flags.translate_flags())",
        ),
    ),
    proven_by="test_alive_training.py::test_the_flags_of_published_scripts_are_understood",
    imports=(Import("llava/train/train.py", "train", ("flags",)),),
)
