"""ALL_LAYERNORM_LAYERS lives in transformers.pytorch_utils today."""

from patches.edits import After, Replace
from patches.series import Kind, Patch, Present

FILE = "llava/train/llava_trainer.py"
OLD = (
    "from transformers.trainer import is_sagemaker_mp_enabled, get_parameter_names, has_length, "
    "ALL_LAYERNORM_LAYERS, logger"
)

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: ImportError on transformers 5",
    why="The list of norm layers moved to `transformers.pytorch_utils`; importing the trainer fails.",
    not_outside="The import runs before any subclass can.",
    drop_when="upstream imports it from its new place",
    edits=(
        Replace(
            FILE,
            "",
            find=OLD,
            put="from transformers.trainer import is_sagemaker_mp_enabled, get_parameter_names, has_length, logger",
        ),
        After(
            FILE,
            "",
            find="from transformers import Trainer",
            put="from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS",
        ),
    ),
    proven_by="test_alive_training.py::test_the_module_of_the_trainer_imports",
    drop_if=(Present(FILE, "", "from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS"),),
)
