"""Without --bf16 the trainer loads in fp32, as it did."""

from patches.edits import Replace
from patches.series import Kind, Patch

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
            find="torch.bfloat16 if training_args.bf16 else None",
            put="torch.bfloat16 if training_args.bf16 else torch.float32",
            count=2,
        ),
    ),
)
