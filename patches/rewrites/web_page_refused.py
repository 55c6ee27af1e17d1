"""Upstream's web page says what replaces it."""

from patches.edits import Before
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.REFUSE,
    origin="haotian-liu/LLaVA#14, #464, #1744 (problem 30)",
    why="The page is written for Gradio 4.16 and needs three processes; `llava-finetune serve` is one "
    "and shows real errors.",
    not_outside="It fails in its first import.",
    drop_when="never: ours replaces it",
    edits=(
        Before(
            "llava/serve/gradio_web_server.py",
            "",
            find="import argparse",
            put="""
                raise (SystemExit if __name__ == "__main__" else ImportError)(
                    "llava.serve.gradio_web_server is not supported: it is written for an old Gradio; "
                    "use `llava-finetune serve MODEL`, a page and an API in one process"
                )
            """,
        ),
    ),
    proven_by="test_alive_tools.py::test_the_old_page_names_what_replaces_it",
)
