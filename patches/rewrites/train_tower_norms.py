"""QLoRA leaves the tower's norms in the tower's dtype."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1712, #785, #1001 (problem 19)",
    why="`expected scalar type BFloat16 but found Float`: every module named `norm` was cast to fp32, CLIP's too.",
    not_outside="The loop is inside `train()`.",
    drop_when="upstream skips the tower",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find="'norm' in name",
            put="'norm' in name and 'vision_tower' not in name",
        ),
    ),
)
