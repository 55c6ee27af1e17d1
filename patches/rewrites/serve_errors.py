"""The worker's answers and exits say what happened."""

from patches.edits import Replace
from patches.series import Kind, Patch

WORKER = "llava/serve/model_worker.py"
THREAD = "threading.Thread(target=__target, args=(self,))"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#14, #464, #1634 (problem 30)",
    why="Every failure reads `NETWORK ERROR DUE TO HIGH TRAFFIC`; the heart beat keeps a stopped process alive; "
    "15 seconds for the first token are too few on a CPU.",
    not_outside="The texts are in the worker's methods.",
    drop_when="upstream passes the error on",
    edits=(
        Replace(
            WORKER,
            "ModelWorker.generate_stream_gate",
            find='{"text": server_error_msg, "error_code": 1}',
            put='{"text": f"{server_error_msg} ({type(e).__name__}: {e})", "error_code": 1}',
            count=3,
        ),
        Replace(WORKER, "ModelWorker.__init__", find=THREAD, put=THREAD.replace("(self,))", "(self,), daemon=True)")),
        Replace(
            "llava/serve/controller.py",
            "Controller.__init__",
            find=THREAD,
            put=THREAD.replace("(self,))", "(self,), daemon=True)"),
        ),
        Replace(
            WORKER,
            "ModelWorker.generate_stream",
            find="TextIteratorStreamer(*__args, timeout=15)",
            put="TextIteratorStreamer(*__args, timeout=600)",
        ),
    ),
)
