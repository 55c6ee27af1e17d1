"""Answer ids come from the standard library."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

FILES = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science", "model_qa")

PATCH = Patch(
    kind=Kind.MEND,
    origin="measured: ModuleNotFoundError",
    why="Five evaluation scripts need the package `shortuuid` for one random id.",
    not_outside="The import is at their top.",
    drop_when="upstream drops the package",
    edits=tuple(
        edit
        for file in FILES
        for edit in (
            Replace(f"llava/eval/{file}.py", "", find="import shortuuid", put="import uuid"),
            Replace(f"llava/eval/{file}.py", "eval_model", find="shortuuid.uuid()", put="uuid.uuid4().hex"),
        )
    ),
    proven_by="test_alive_tools.py::test_the_evaluation_scripts_import_without_shortuuid",
    drop_if=(*(Absent(f"llava/eval/{file}.py", "", "shortuuid") for file in FILES),),
)
