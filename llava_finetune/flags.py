"""Flags as words of a command line: of two equal ones the later wins."""

from __future__ import annotations

from collections.abc import Sequence


def flag(flags: Sequence[str], name: str) -> str | None:
    """The last value given for the flag `name` (as `--x value` or `--x=value`), or None."""
    value = None
    for index, word in enumerate(flags):
        if word == name and index + 1 < len(flags):
            value = flags[index + 1]
        elif word.startswith(f"{name}="):
            value = word.split("=", 1)[1]
    return value
