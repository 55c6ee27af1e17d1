"""The JSON files of a workspace: a type for each, and the two ways to read one.

Whoever may write into the workspace may write anything into them; what is read here has the type that it should have.

    read_document(folder / "command.json", CommandFile)      # UserError with the place of what is wrong
    read_known(space.folder / "check.json", CheckFile)            # {} where nothing of use is there
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from llava_finetune.errors import UserError
from llava_finetune.saved.documents import read_document
from llava_finetune.saved.model_documents import Count, Text

ExitCode = Annotated[int, Meta(ge=-255, le=255)]


class StepFile(Struct):
    """One command of a job."""

    argv: Annotated[list[str], Meta(min_length=1)]
    env: dict[str, str]
    stdout: Text
    fine: list[ExitCode]
    found: list[ExitCode]


class CommandFile(Struct):
    """command.json: what a job was asked for."""

    kind: str
    title: str
    steps: Annotated[list[StepFile], Meta(min_length=1)]
    made: str
    queued: bool
    about: dict[str, Any]


class ProcessFile(Struct):
    """`pid` and `starting`: a process, and when it began."""

    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    started: Text


class Example(Struct):
    """One place of a finding."""

    detail: str


class Finding(Struct):
    """One kind of trouble that `check` found."""

    kind: str
    count: Count
    examples: list[Example]
    indices: list[int] = []


class CheckFile(Struct):
    """check.json."""

    findings: list[Finding] = []
    ok: bool | None = None


class Source(Struct):
    """A file that another was made from."""

    path: Text = None
    sha256: Text = None


class MetaFile(Struct):
    """NAME.meta.json beside records."""

    counts: dict[str, Any] = {}
    dropped: list[Any] = []
    sources: list[Source] = []


class Verdict(Struct):
    """Whether a program answers as the model does: `identical` of `count` answers are the same, letter by letter."""

    engine: str
    verdict: str
    count: Count = 0
    identical: Count = 0


class CertificateFile(Struct):
    """certificate.json of a run."""

    engines: list[Verdict] = []


class StateFile(Struct):
    """What is read of trainer_state.json while a training goes on."""

    max_steps: Count


def read_known(path: Path, kind: Any) -> dict[str, Any]:
    """The object in a file; empty where there is none, or none of its type."""
    try:
        return dict(read_document(path, kind))
    except (OSError, UserError):
        return {}
