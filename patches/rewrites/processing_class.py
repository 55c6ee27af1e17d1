"""The Trainer takes `processing_class` where it took `tokenizer`."""

from patches.edits import Replace
from patches.series import Kind, Patch, Present

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
    proven_by="test_alive_training.py::test_the_trainer_gets_arguments_that_it_takes",
    drop_if=(Present("llava/train/train.py", "train", "LLaVATrainer(*__before, processing_class=tokenizer, *__rest)"),),
)
