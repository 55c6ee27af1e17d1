"""Saving under DeepSpeed waits for CUDA only where there is CUDA."""

from patches.edits import Replace
from patches.series import Kind, Patch, Present

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: AssertionError `Torch not compiled with CUDA enabled` when saving",
    why="`torch.cuda.synchronize()` fails on machines without CUDA.",
    not_outside="The call is inside upstream's save function.",
    drop_when="upstream guards the call",
    edits=(
        Replace(
            "llava/train/train.py",
            "safe_save_model_for_hf_trainer",
            find="torch.cuda.synchronize()",
            put="if torch.cuda.is_available():\n    torch.cuda.synchronize()",
        ),
    ),
    proven_by="test_alive_training.py::test_a_save_under_deepspeed_needs_no_cuda",
    drop_if=(
        Present(
            "llava/train/train.py",
            "safe_save_model_for_hf_trainer",
            "if torch.cuda.is_available():\n    torch.cuda.synchronize()",
        ),
    ),
)
