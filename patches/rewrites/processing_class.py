"""The Trainer takes `processing_class` where it took `tokenizer`."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: TypeError on transformers 5",
    why="`Trainer(tokenizer=)` is now `Trainer(processing_class=)`.",
    not_outside="The call is in the middle of `train()`.",
    drop_when="upstream passes `processing_class`",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find="LLaVATrainer(model=model, tokenizer=tokenizer, *__rest)",
            put="LLaVATrainer(model=model, processing_class=tokenizer, *__rest)",
        ),
    ),
)
