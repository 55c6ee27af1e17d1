"""Gets pristine upstream: the sdist from the package index, or the git submodule when asked.

The sdist holds the same 50 files as the submodule, byte for byte, in 84 kB; the submodule needs git and its remote.
Without --git the sdist is tried first and the submodule second. Nothing is used before its sums are checked, and
build/upstream appears by one rename.

    python -m patches fetch
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from patches import SDIST, SDIST_SHA256, UPSTREAM_COMMIT, UPSTREAM_URL
from patches.source import SDIST_FOLDER, SUBMODULE, SourceError, read_pristine

DOWNLOAD_SECONDS = 180
GIT_SECONDS = 300


class FetchError(Exception):
    """Upstream could not be fetched; the message says what was tried and what to do."""


def fetch(root: Path, git: bool = False, force: bool = False) -> str:
    """Make pristine upstream present below `root`. Returns one line that says what was done."""
    ready = None if force else present(root)
    if ready and not (git and ready != root / SUBMODULE):
        return f"{ready.relative_to(root)}: already there, 50 files match"
    if git:
        return fetch_submodule(root)
    try:
        return fetch_sdist(root)
    except FetchError as first:
        try:
            return fetch_submodule(root)
        except FetchError as second:
            raise FetchError(f"{first}\n{second}") from None


def present(root: Path) -> Path | None:
    """The submodule or the sdist folder when it is pristine."""
    for place in (root / SUBMODULE, root / SDIST_FOLDER):
        if (place / "llava").is_dir():
            try:
                read_pristine(place)
            except SourceError:
                continue
            return place
    return None


def fetch_sdist(root: Path) -> str:
    """Download llava-torch's sdist with pip into build/upstream. Raises FetchError; what was there then stays."""
    try:
        return _fetch_sdist(root / SDIST_FOLDER)
    except OSError as error:
        raise FetchError(
            f"{SDIST_FOLDER}: cannot be written ({error.strerror or error}); make room or give write permission, "
            "then run: python -m patches fetch"
        ) from None


def _fetch_sdist(target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".upstream-", dir=target.parent) as folder:
        archive = download(Path(folder))
        unpacked = unpack(archive, Path(folder) / "unpacked")
        try:
            read_pristine(unpacked)
        except SourceError as error:
            raise FetchError(f"the downloaded sdist is not pristine: {error}") from None
        old = Path(folder) / "old"
        if target.exists():
            target.replace(old)
        unpacked.replace(target)
    return f"{SDIST_FOLDER}: fetched {SDIST} from the package index, 50 files match"


def download(folder: Path) -> Path:
    """Run pip, first without build isolation (no second download), then with it. Returns the archive."""
    attempts: list[str] = []
    for extra in (["--no-build-isolation"], []):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", *extra]
        command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), SDIST]
        attempts.append(_run(command, DOWNLOAD_SECONDS))
        archives = sorted(folder.glob("llava*torch-*.tar.gz"))
        if archives:
            return _checked(archives[0])
        if "No matching distribution" in attempts[-1] or "onnection" in attempts[-1]:
            break
    raise FetchError(
        f"{SDIST} could not be downloaded: {attempts[-1] or 'pip wrote no file'}. Check the network "
        f"and pip's index (pip config list), or unpack a copy of "
        f"{UPSTREAM_URL} at {UPSTREAM_COMMIT[:12]} and set LLAVA_SRC to it"
    )


def _checked(archive: Path) -> Path:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise FetchError(
            f"{archive.name}: sha256 expected {SDIST_SHA256[:12]}, found {found[:12]} ({archive.stat().st_size} bytes)"
            ": a damaged download or another file under that name; run `pip cache purge`, then: python -m patches fetch"
        )
    return archive


def unpack(archive: Path, target: Path) -> Path:
    """The .py files below llava/ and the licence; no links, no paths out of the folder. Raises FetchError."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts[1:]
                wanted = (parts[:1] == ("llava",) and member.name.endswith(".py")) or parts == ("LICENSE",)
                data = tar.extractfile(member) if wanted and member.isfile() and ".." not in parts else None
                if data is not None:
                    path = target.joinpath(*parts)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(
            f"{archive.name}: cannot be unpacked ({error}); run: python -m patches fetch --force"
        ) from None
    return target


def fetch_submodule(root: Path) -> str:
    """Fill third_party/LLaVA with git. Raises FetchError."""
    folder = root / SUBMODULE
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".git").exists():
        raise FetchError(
            f"{SUBMODULE}: holds files but is no git checkout; empty the folder, then: python -m patches fetch --git"
        )
    if shutil.which("git") is None:
        raise FetchError(f"{SUBMODULE}: git is not installed")
    problem = _run(["git", "-C", str(root), "submodule", "update", "--init", "--", str(SUBMODULE)], GIT_SECONDS)
    try:
        if (folder / ".git").exists():
            read_pristine(folder)
            return f"{SUBMODULE}: filled at {UPSTREAM_COMMIT[:12]}, 50 files match"
    except SourceError as error:
        problem = str(error)
    raise FetchError(f"{SUBMODULE}: could not be filled from {UPSTREAM_URL}: {problem or 'git left it empty'}")


def _run(command: Sequence[str], seconds: float) -> str:
    """Run a program; its last line of error, empty when it went well."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "fatal"))]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]
