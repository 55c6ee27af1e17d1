"""From a folder of pictures to a tuned model in the browser: one page that shows the command behind every button.

llava-finetune studio my-pictures
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `llava-finetune studio`."""
    from llava_finetune.studio.command import main as run

    return run(argv)
