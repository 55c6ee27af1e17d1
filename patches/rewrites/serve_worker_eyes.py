"""The model worker knows by its model, not by a name, that it sees."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#738, #1634 (problems 10, 30)",
    why="A folder without `llava` in its name got a worker without eyes.",
    not_outside="The name is tested in the constructor, which also starts the heart beat.",
    drop_when="upstream asks the model",
    edits=(
        Replace(
            "llava/serve/model_worker.py",
            "ModelWorker.__init__",
            find="'llava' in self.model_name.lower()",
            put="self.image_processor is not None",
        ),
    ),
    proven_by="test_alive_tools.py::test_the_worker_sees_when_its_model_does",
    drop_if=(Absent("llava/serve/model_worker.py", "ModelWorker.__init__", "__x.lower()"),),
)
