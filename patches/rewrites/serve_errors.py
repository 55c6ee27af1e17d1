"""The worker's answers say what happened."""

from patches.edits import Replace
from patches.series import Kind, Patch

WORKER = "llava/serve/model_worker.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#14, #464, #1634 (problem 30)",
    why="Every failure reads `NETWORK ERROR DUE TO HIGH TRAFFIC`.",
    not_outside="The texts are in the worker's method.",
    drop_when="upstream passes the error on",
    edits=(
        Replace(
            WORKER,
            "ModelWorker.generate_stream_gate",
            find='{"text": server_error_msg, "error_code": 1}',
            put='{"text": f"{server_error_msg} ({type(e).__name__}: {e})", "error_code": 1}',
            count=3,
        ),
    ),
    proven_by="test_alive_tools.py::test_the_worker_says_what_failed",
)
