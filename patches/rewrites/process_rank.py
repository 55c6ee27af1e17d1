"""The rank comes from the process group, not from a launcher's flag."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `local_rank` stays -1 under torchrun, in silence",
    why="Every rank passed the tests for rank 0 and wrote the same files, and `rank0_print` was mute.",
    not_outside="The tests are spread over upstream's save functions.",
    drop_when="upstream asks `local_process_index`",
    edits=(
        Replace("llava/train/train.py", "train", "training_args.local_rank", "training_args.local_process_index", 3),
        Replace(
            "llava/train/train.py",
            "safe_save_model_for_hf_trainer",
            "trainer.args.local_rank",
            "trainer.args.local_process_index",
            2,
        ),
        Replace(
            "llava/train/llava_trainer.py",
            "LLaVATrainer._save_checkpoint",
            "self.args.local_rank",
            "self.args.local_process_index",
            2,
        ),
    ),
    proven_by="test_alive_training.py::test_only_the_first_process_writes",
    drop_if=(
        Absent("llava/train/train.py", "train", "__x.local_rank"),
        Absent("llava/train/train.py", "train", '"local_rank"'),
        Absent("llava/train/train.py", "safe_save_model_for_hf_trainer", "__x.local_rank"),
        Absent("llava/train/train.py", "safe_save_model_for_hf_trainer", '"local_rank"'),
        Absent("llava/train/llava_trainer.py", "LLaVATrainer._save_checkpoint", "__x.local_rank"),
        Absent("llava/train/llava_trainer.py", "LLaVATrainer._save_checkpoint", '"local_rank"'),
    ),
)
