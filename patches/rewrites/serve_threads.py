"""A stopped controller or worker ends."""

from patches.edits import Replace
from patches.series import Kind, Patch

THREAD = "threading.Thread(target=__target, args=(self,))"
PLACES = (
    ("llava/serve/model_worker.py", "ModelWorker.__init__"),
    ("llava/serve/controller.py", "Controller.__init__"),
)

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1634 (problem 30)",
    why="The heart beat keeps a stopped process alive, and its port taken.",
    not_outside="The threads are made and started in the constructors.",
    drop_when="upstream's threads are daemons",
    edits=tuple(
        Replace(file, within, find=THREAD, put=THREAD.replace("(self,))", "(self,), daemon=True)"))
        for file, within in PLACES
    ),
    proven_by="test_alive_tools.py::test_the_heart_beat_keeps_no_process_alive",
)
