"""Flags as words of a command line: of two equal ones the later wins, and secrets are not kept."""

from __future__ import annotations

from collections.abc import Sequence

SECRET_FLAGS = ("token", "key", "password", "secret")


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


def is_true(value: str | None) -> bool:
    """Whether a flag's value switches it on; one that is not given does not."""
    return value is not None and value.lower() not in ("false", "0", "no")


def without_secrets(command: Sequence[str]) -> list[str]:
    """The words of a command, the values of flags such as --hub_token taken out."""
    out: list[str] = []
    hide = False
    for word in command:
        name, equals, _ = word.partition("=")
        secret = name.startswith("--") and name.rsplit("_", 1)[-1].rsplit("-", 1)[-1] in SECRET_FLAGS
        out.append("<hidden>" if hide else f"{name}=<hidden>" if secret and equals else word)
        hide = secret and not equals
    return out
