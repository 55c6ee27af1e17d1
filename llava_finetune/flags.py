"""Flags: the parsers' common parts, and a command line as words, of which the later of two equal ones wins.

parser = command_parser("doctor", "Check this machine.", EXAMPLES)
flag(["--bits", "4", "--bits=8"], "--bits")      # "8"
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.command_line import Parser
from llava_finetune.errors import UsageError

SECRET_FLAGS = ("token", "key", "password", "secret")
NO_SECRET = "mm_use_im_patch_token"
"""Ends as a secret does and is a switch: without its value a run cannot be repeated."""


def command_parser(name: str, description: str | None, examples: str | None = None) -> argparse.ArgumentParser:
    """A subcommand's parser, whose help ends with its examples as they are written."""
    return Parser(prog=f"llava-finetune {name}", description=description, epilog=examples)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `load` is told about a model: --base, --dtype, --device and --bits."""
    parser.add_argument("--base", help="base of an adapter, when it is not where the manifest says")
    parser.add_argument("--dtype", default="auto", help="auto, bf16, fp16 or fp32 (default: what it was trained in)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--bits", type=int, default=16, choices=(16, 8, 4), help="quantise the language model (default: 16)"
    )


def flag(flags: Sequence[str], *names: str) -> str | None:
    """The last value given for a flag of these names (as `--x value` or `--x=value`), or None."""
    value = None
    for index, word in enumerate(flags):
        name, equals, rest = word.partition("=")
        if name in names and equals:
            value = rest
        elif name in names and index + 1 < len(flags):
            value = flags[index + 1]
    return value


def number_of(name: str, text: str, read: Callable[[str], Any], joined: str = " ") -> Any:
    """What `text` says to `read` (whole or real of data_prep/numbers.py); UsageError with name, text and range else."""
    try:
        return read(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}{joined}{text[:40]}: {error}") from None


def number_in(flags: Sequence[str], name: str, default: Any, read: Callable[[str], Any]) -> Any:
    """The number of a flag by `read`, or `default` where the flag is not given. Raises UsageError as `number_of`."""
    text = flag(flags, name)
    return default if text is None else number_of(name, text, read)


def is_true(value: str | None) -> bool:
    """Whether a flag's value switches it on; one that is not given does not."""
    return value is not None and value.lower() not in ("false", "0", "no")


def without_secrets(command: Sequence[str]) -> list[str]:
    """The words of a command, the values of flags such as --hub_token taken out."""
    out: list[str] = []
    hide = False
    for word in command:
        name, equals, _ = word.partition("=")
        plain = name.removeprefix("--").replace("-", "_")
        secret = name.startswith("--") and plain != NO_SECRET and plain.rsplit("_", 1)[-1] in SECRET_FLAGS
        out.append("<hidden>" if hide else f"{name}=<hidden>" if secret and equals else word)
        hide = secret and not equals
    return out
