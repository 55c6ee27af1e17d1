"""How the two files are served: the Modelfile of Ollama and the command line of llama.cpp's server.

Ollama has templates of its own (Go's) and puts a picture directly before the words of its message, so the line break
that training wrote after it is missing there.

    text = modelfile("vicuna_v1", "<s>", tokenizer, ["model-f16.gguf", "mmproj-f16.gguf"], notes=[])
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.own_template import render
from llava_finetune.data.templates import conversation, end_text
from llava_finetune.errors import UserError

_TURNS = (
    '{{ range .Messages }}{{ if eq .Role "user" }}%s{{ .Content }}%s{{ else if eq .Role "assistant" }}%s{{ .Content '
    "}}%s"
    "{{ end }}{{ end }}%s"
)


def server_line(folder: Path, files: Sequence[str]) -> str:
    """The command that serves a written folder with llama.cpp's own server, greedily."""
    model, mmproj = (shlex.quote(str(folder / name)) for name in files)
    return f"llama-server -m {model} --mmproj {mmproj} --jinja --temp 0"


def modelfile(template: str, beginning: str, tokenizer: Any, files: Sequence[str], notes: Sequence[str]) -> str:
    """The text of a Modelfile: both files, the conversation of training, its end, greedy answers.

    `beginning` is what stands before everything (BOS), for Ollama adds none to these files.
    """
    conversation_in_go = _own_in_go(tokenizer) if template == OWN else _conversation_in_go(conversation(template))
    stops = dict.fromkeys(stop for stop in (end_text(template, tokenizer), tokenizer.eos_token) if stop)
    lines = [
        "# ollama create mine -f Modelfile && ollama run mine",
        *(f"# {note}" for note in notes),
        *(f"FROM ./{name}" for name in files),
        f'TEMPLATE """{beginning}{conversation_in_go}"""',
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
        "PARAMETER temperature 0",
    ]
    return "\n".join(lines) + "\n"


def _conversation_in_go(own: Any) -> str:
    kind = own.sep_style.name
    human, gpt = own.roles
    if kind in ("TWO", "SINGLE"):
        end = own.sep2 if kind == "TWO" else own.sep
        turns = _TURNS % (f"{human}: ", own.sep, f"{gpt}: ", end, f"{gpt}:")
        return f"{_system(own.system)}{own.sep}{turns}"
    if kind == "MPT":
        head = re.match(r"[^\n]*\n*", own.system)
        given = (head.group() if head else "") + "{{ .System }}"
        return f"{_system(own.system, given)}{own.sep}" + _TURNS % (human, own.sep, gpt, own.sep, gpt)
    if kind == "LLAMA_2":
        # The system text stands inside the first instruction; SYSTEM alone would stand before it.
        return (
            '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}[INST] {{ if $.System }}{{ if eq $i 0 1 '
            "}}<<SYS>>\n"
            "{{ $.System }}\n<</SYS>>\n\n{{ end }}{{ end }}{{ $m.Content }} [/INST]"
            '{{ else if eq $m.Role "assistant" }} {{ $m.Content }} ' + own.sep2 + "{{ end }}{{ end }}"
        )
    raise UserError(f"a conversation of the kind {kind} has no Modelfile")


def _own_in_go(tokenizer: Any) -> str:
    """What a tokenizer's own template writes around the words of a conversation, found by writing some.

    Raises UserError for a template that writes later turns otherwise than the first ones.
    """
    words = ("(first)", "(yes)", "(second)", "(no)", "(third)")

    def written(count: int, system: str | None = None) -> str:
        said = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(words[:count])]
        begin = [{"role": "system", "content": system}] if system else []
        return render([*begin, *said], tokenizer, open_end=True)

    head, _, last = written(1).partition(words[0])
    parts = re.split("|".join(map(re.escape, words[:3])), written(3))
    if len(parts) != 4 or (parts[0], parts[3]) != (head, last):
        parts = [head, "", "", last]
    asked, answered = parts[1:3]
    if written(5) != head + "".join(map("".join, zip(words, (asked, answered, asked, answered, last), strict=True))):
        raise UserError(
            "the tokenizer's chat template writes later turns otherwise than the first ones, and has no Modelfile"
        )
    user = next((answered[at:] for at in range(len(answered)) if head.endswith(answered[at:])), "")
    given = _with_system(lambda text: written(1, text).partition(words[0])[0])
    turns = _TURNS % (user, "", asked, answered.removesuffix(user), last)
    return _system(head.removesuffix(user), given.removesuffix(user) or head.removesuffix(user)) + turns


def _with_system(written: Callable[[str], str]) -> str:
    """What stands before the first question with a system text in it; empty for a template that takes none."""
    mark = "(system)"
    try:
        return written(mark).replace(mark, "{{ .System }}")
    except UserError:
        return ""


def _system(text: str, given: str = "{{ .System }}") -> str:
    return "{{ if .System }}" + given + "{{ else }}" + text + "{{ end }}"
