"""Without --bf16 the trainer loads in fp32, as it did."""

from patches.edits import Replace
from patches.series import Kind, Patch

#: The whole call: `train` holds the same choice for its compute dtype.
LOAD = "__class.from_pretrained(*__args, torch_dtype=(torch.bfloat16 if training_args.bf16 else {}), *__more)"

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: read in transformers 5, `from_pretrained`",
    why="`torch_dtype=None` meant fp32 and now means the checkpoint's own dtype: a bf16 checkpoint "
    "would train in bf16 unasked.",
    not_outside="The argument is inside `train()`.",
    drop_when="upstream names the dtype",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find=LOAD.format("None"),
            put=LOAD.format("torch.float32"),
            count=2,
        ),
    ),
    proven_by="test_alive_training.py::test_without_bf16_a_bf16_base_trains_in_fp32",
)
