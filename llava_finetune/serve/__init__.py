"""Answers on demand: one engine behind the terminal chat, the web page and the OpenAI-compatible API.

llava-finetune serve runs/mine --port 8000
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llava-finetune serve`."""
    from llava_finetune.serve.command import main as run

    return run(argv)
