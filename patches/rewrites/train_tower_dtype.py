"""The trainer's tower has the run's dtype, its norms too."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

FILE = "llava/train/train.py"
TOWER = "vision_tower.to(dtype={}, device=training_args.device)"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1712, #785, #1001 (problem 19)",
    why="A run without `--bf16` put the tower into fp16, whatever the rest had; QLoRA put every module named `norm` "
    "into fp32, CLIP's too: `expected scalar type BFloat16 but found Float`.",
    not_outside="Both casts are inside `train()`.",
    drop_when="upstream casts the tower to `compute_dtype` and leaves it there",
    edits=(
        Replace(
            FILE,
            "train",
            find=TOWER.format("torch.bfloat16 if training_args.bf16 else torch.float16"),
            put=TOWER.format("compute_dtype"),
        ),
        Replace(FILE, "train", find="'norm' in name", put="'norm' in name and 'vision_tower' not in name"),
    ),
    proofs=(Absent(FILE, "train", "torch.bfloat16 if __wanted else torch.float16"),),
    proven_by="test_alive_training.py::test_a_run_in_fp32_has_its_tower_in_fp32",
)
