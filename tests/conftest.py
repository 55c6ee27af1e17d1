"""What all tests share: golden files, one thread per process, and no network beyond this machine."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before torch is imported: two test processes with two threads each fight on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail any connection that leaves this machine, so that no test depends on a network."""
    if event != "socket.connect":
        return
    address = arguments[1]
    host = address[0] if isinstance(address, tuple) else ""
    if host and not (host.startswith("127.") or host in ("localhost", "::1", "0.0.0.0")):
        raise ConnectionRefusedError(f"tests do not leave this machine: {address}")


sys.addaudithook(_refuse_network)

NOTE = "note"
pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in ("adapters_and_servers", "browsers", "forking", "mixed_batches", "pretended_machine", "run_folders")
]
"""Fixtures that several folders use; what one folder needs stands in its conftest.py."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, each in its own order: a long file must not be a worker's last."""
    slow: Counter[Path] = Counter()
    for item in items:
        if mark := item.get_closest_marker("slow"):
            slow[item.path] += mark.kwargs.get("seconds", 3)
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with a committed file, or write it with --update-golden."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing; make it with: pytest {request.node.nodeid} --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}; if on purpose: --update-golden"

    return compare


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something that stands at the end of the whole run, whichever worker found it: a measured figure, a table."""
    return lambda text: record_property(NOTE, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    notes = [
        str(text)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, text in report.user_properties
        if name == NOTE
    ]
    if notes:
        terminalreporter.section("notes")
        terminalreporter.write_line("\n".join(dict.fromkeys(notes)))
