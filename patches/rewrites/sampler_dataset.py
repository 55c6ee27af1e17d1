"""The Trainer hands the data set to `_get_train_sampler`."""

from patches.edits import AddParameter, Replace
from patches.series import Kind, Patch

FILE = "llava/train/llava_trainer.py"

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: TypeError on transformers 5",
    why="`_get_train_sampler` receives the data set; upstream's override takes none.",
    not_outside="A subclass of ours would need the body again.",
    drop_when="upstream's override takes the data set",
    edits=(
        AddParameter(FILE, "LLaVATrainer._get_train_sampler", find="self", put="train_dataset=None"),
        Replace(
            FILE,
            "LLaVATrainer._get_train_sampler",
            find="super()._get_train_sampler()",
            put="super()._get_train_sampler(train_dataset)",
        ),
    ),
    proven_by="test_alive_training.py::test_the_sampler_takes_the_data_set",
)
