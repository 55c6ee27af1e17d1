"""Not every tokenizer has `legacy`."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: AttributeError with fast tokenizers; haotian-liu/LLaVA#1427",
    why="`tokenizer.legacy` exists on Llama tokenizers only; others count as legacy, "
    "which leaves the lengths as they are.",
    not_outside="The attribute is read in the middle of the masking.",
    drop_when="upstream guards it",
    edits=(
        Replace(
            "llava/train/train.py",
            "preprocess_v1",
            find="tokenizer.legacy",
            put="getattr(tokenizer, 'legacy', True)",
        ),
    ),
    proven_by="test_alive_training.py::test_a_tokenizer_without_legacy_is_masked",
    drop_if=(Absent("llava/train/train.py", "preprocess_v1", "__x.legacy"),),
)
