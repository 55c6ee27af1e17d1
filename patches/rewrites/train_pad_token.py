"""A tokenizer without unk gets a pad token that is not its end token."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1426, #1427, #1431 (problem 34)",
    why="Llama-3, Qwen and ChatML tokenizers have no unk token: `pad_sequence` got None.",
    not_outside="The token is set inside `train()`.",
    drop_when="upstream falls back",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find="tokenizer.pad_token = tokenizer.unk_token",
            put="tokenizer.pad_token = guards.choose_pad_token(tokenizer)",
            count=2,
        ),
    ),
    proven_by="test_alive_training.py::test_a_tokenizer_without_unk_gets_a_pad_token",
    imports=(Import("llava/train/train.py", "train", ("guards",)),),
    drop_if=(Absent("llava/train/train.py", "train", "__x.unk_token"),),
)
