"""The parser of every command: an error is one line that names the near flag, and an empty path is refused.

parser = Parser(prog="python -m data_prep table", description="A table to records.", epilog=EXAMPLES)
parser.parse_args(["--outptu", "r.json"])
# python -m data_prep table: error: no flag --outptu, did you mean --output?; its flags: ... table --help
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, and not behind a screen of flags."""

    def __init__(self, **options: Any) -> None:
        """Take what argparse takes; description and examples are printed as they are written."""
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.register("type", Path, _path)
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; the words before `--` are kept for the message of an error."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        self._words = [self._spelled(word) for word in words[:end]]
        return super().parse_known_args([*self._words, *words[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one line."""
        if message.startswith(("the following arguments are required", "unrecognized arguments")):
            message = self._slip() or message  # a slip of the finger, and not what is missing for it
        self.exit(2, f"{self.prog}: error: {message}; its flags: {self.prog} --help\n")

    def _spelled(self, word: str) -> str:
        """A flag as it is known here: `--max-new-tokens` for `--max_new_tokens`, and the other way round."""
        name, equals, value = word.partition("=")
        spellings = (name, name.replace("_", "-"), f"--{name[2:].replace('-', '_')}") if word.startswith("--") else ()
        known = next((one for one in spellings if one in self._option_string_actions), name)
        return known + equals + value

    def _slip(self) -> str | None:
        for name in (word.partition("=")[0] for word in self._words if word.startswith("--")):
            if any(flag.startswith(name) for flag in self._option_string_actions):
                continue
            meant = near_flag(self, name)
            return f"no flag {name}" + (f", did you mean {meant}?" if meant else "")
        return None


def near_flag(parser: argparse.ArgumentParser, name: str) -> str:
    """The flag of `parser` that is nearest to `name`, under the first of its spellings; empty where none is near."""
    near = difflib.get_close_matches(name.partition("=")[0], parser._option_string_actions, 1)
    return parser._option_string_actions[near[0]].option_strings[0] if near else ""


def _path(text: str) -> Path:
    """Return the path of a flag. An empty one, as of a variable that is not set, would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found nothing (a variable that is not set?)")
    return Path(text)
