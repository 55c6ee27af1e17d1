"""DeepSpeed's process group exists before the model is built, on CPU too."""

from patches.edits import After
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `Check batch related parameters` under ZeRO-3 with --use_cpu",
    why="With `--use_cpu` transformers skips its DeepSpeed branch, so `zero.Init` sees one process.",
    not_outside="It has to happen between the reading of the flags and the building of the model.",
    drop_when="transformers starts DeepSpeed with `--use_cpu`",
    edits=(
        After(
            "llava/train/train.py",
            "train",
            find="model_args, data_args, training_args = parser.parse_args_into_dataclasses(*__args)",
            put="ranks.start_deepspeed_on_cpu(training_args)",
        ),
    ),
    proven_by="test_alive_training.py::test_deepspeeds_group_is_there_before_the_model",
    imports=(Import("llava/train/train.py", "train", ("ranks",)),),
)
