"""The worker waits for a slow first token."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#14, #464 (problem 30)",
    why="15 seconds for the first token are too few on a CPU, and the answer was lost with an error.",
    not_outside="The streamer is made in the middle of the worker's method.",
    drop_when="upstream waits longer",
    edits=(
        Replace(
            "llava/serve/model_worker.py",
            "ModelWorker.generate_stream",
            find="TextIteratorStreamer(*__args, timeout=15)",
            put="TextIteratorStreamer(*__args, timeout=600)",
        ),
    ),
    proven_by="test_alive_tools.py::test_the_first_token_may_take_ten_minutes",
)
