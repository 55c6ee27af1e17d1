"""What `--augment` asks for: all kinds of change, some of them, or none.

asked_kinds("flip,light")       # frozenset({"flip", "light"})
"""

from __future__ import annotations

from llava_finetune.errors import UsageError

KINDS = ("crop", "flip", "light", "colour")
ALL, NONE = {"true", "all", "yes", "1"}, {"false", "none", "no", "0"}


def asked_kinds(asked: str | None) -> frozenset[str]:
    """Return the kinds that `--augment` names, with commas; True is all. Raises UsageError for another word."""
    words = {word.strip() for word in (asked or "").lower().split(",") if word.strip()}
    if not words or (len(words) == 1 and words <= NONE):
        return frozenset()
    if len(words) == 1 and words <= ALL:
        return frozenset(KINDS)
    if unknown := sorted(words - set(KINDS)):
        raise UsageError(f"--augment {asked}: no kind {unknown[0]!r}; there are {', '.join(KINDS)}, or True for all")
    return frozenset(words)
