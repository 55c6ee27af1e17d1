"""Not every tokenizer has `legacy`."""

from patches.edits import Replace
from patches.series import Kind, Patch

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
)
