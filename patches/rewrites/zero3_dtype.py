"""ZeRO-3 gets one dtype: what is made after the base model is cast like it."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `defragment: assert len(set(t.dtype ...)) == 1`, `BFloat16 != float`",
    why="A fp32 projector or fp32 adapter beside a bf16 base is refused by ZeRO-3.",
    not_outside="It has to happen between the building of the modules and the Trainer.",
    drop_when="DeepSpeed casts mixed models itself again",
    edits=(
        Before(
            "llava/train/train.py",
            "train",
            find="data_module = make_supervised_data_module(*__args)",
            put="ranks.cast_for_zero3(model, training_args.bf16)",
        ),
    ),
    proven_by="test_alive_training.py::test_under_zero3_everything_has_the_dtype_of_the_base",
    imports=(Import("llava/train/train.py", "train", ("ranks",)),),
)
