"""Dumps of OpenAI's Responses API: what went in and what came out of a call, as messages.

messages_of("What?", [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a dog"}]}])
# [{"role": "user", "content": "What?"}, {"type": "message", "role": "assistant", ...}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INPUT, OUTPUT = "input", "output"
UNSAID = {"reasoning"}
"""Items that nobody says to anybody."""


def messages_of(given: Any, answered: Sequence[Any] | None, instructions: Any = None) -> list[dict[str, Any]]:
    """Return the messages of a call; none where `answered` is not the list of items that the API gives back.

    An item of an unknown type becomes a message of that role, which is refused where roles are read.
    """
    if not answered or not all(isinstance(item, Mapping) and "type" in item for item in answered):
        return []
    before = [{"role": "system", "content": instructions}] if instructions else []
    asked = given if isinstance(given, list) else [{"role": "user", "content": given}]
    items = [item if isinstance(item, Mapping) else {"type": str(item)} for item in (*asked, *answered)]
    return [*before, *(_message(item) for item in items if item.get("type") not in UNSAID)]


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [item]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    return dict(item) if kind == "message" else {"role": kind}
