"""A vision tower can be named at load time, and one inside the model's folder is found after a move."""

from patches.edits import AddParameter, Replace
from patches.series import Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#348, #350, #484 (problem 31)",
    why="The tower's name comes from config.json only: without a hub, or after a move, the model cannot be loaded.",
    not_outside="The config is read inside `from_pretrained`.",
    drop_when="upstream takes a tower at load time",
    edits=(
        AddParameter(FILE, FUNCTION, find="dtype", put="vision_tower=None"),
        Replace(
            FILE,
            FUNCTION,
            find="folders.describe(model_path, model_base)",
            put="folders.describe(model_path, model_base, vision_tower)",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="weights.load_whole(__class, model_path, *__rest)",
            put="weights.load_whole(__class, model_path, config=folder.load_config(), *__rest)",
            count=2,
        ),
    ),
    proven_by="test_upstream_loads.py::test_a_tower_can_be_named_at_load_time_and_is_found_after_a_move",
    needs=(
        "builder_folder",
        "builder_dtype",
        "builder_weights",
    ),
)
