"""Where pristine upstream is, and whether it is pristine.

Searched in this order: --source, $LLAVA_SRC, third_party/LLaVA when it is filled, build/upstream. Every one of the 50
files is checked against pristine.sha256 before it is used, so that the submodule and the sdist are one case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from patches import UPSTREAM_COMMIT, UPSTREAM_VERSION

ROOT = Path(__file__).resolve().parent.parent
SUMS = Path(__file__).resolve().parent / "pristine.sha256"
SUBMODULE = Path("third_party/LLaVA")
SDIST_FOLDER = Path("build/upstream")


class SourceError(Exception):
    """No usable upstream; the message says where it was looked for and what to run."""


def read_sums(path: Path = SUMS) -> dict[str, str]:
    """`llava/...` to SHA-256, in the format of sha256sum."""
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="ascii").splitlines() if line.strip())
    return {name: digest for digest, name in pairs}


def find_source(asked: Path | None = None, root: Path = ROOT) -> Path:
    """The folder that holds `llava/`. Raises SourceError when there is none."""
    if asked is not None:
        return _must_hold(asked, "--source")
    if os.environ.get("LLAVA_SRC"):
        return _must_hold(Path(os.environ["LLAVA_SRC"]), "$LLAVA_SRC")
    for place in (root / SUBMODULE, root / SDIST_FOLDER):
        if (place / "llava").is_dir():
            return place
    raise SourceError(
        f"no upstream found: {SUBMODULE} is not filled and {SDIST_FOLDER} does not exist. Run: python -m patches fetch"
    )


def _must_hold(folder: Path, name: str) -> Path:
    if not (folder / "llava").is_dir():
        raise SourceError(f"{name} {folder}: no folder llava/ in it; name the root of a LLaVA checkout or sdist")
    return folder


def read_pristine(folder: Path) -> dict[str, bytes]:
    """The 50 files, checked. Raises SourceError that names every missing and changed file."""
    sums = read_sums()
    files = read_any(folder)
    problems = compare(files, sums)
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise SourceError(
            f"{folder}: not the pinned upstream {UPSTREAM_VERSION} ({UPSTREAM_COMMIT[:12]}): "
            f"{len(problems)} of {len(sums)} files differ\n  {shown}\n{remedy(folder)}"
        )
    return {name: files[name] for name in sums}


def read_any(folder: Path) -> dict[str, bytes]:
    """Every llava/**/*.py of any version, unchecked. Raises SourceError for a file that cannot be read."""
    paths = [path for path in sorted((folder / "llava").rglob("*.py")) if "__pycache__" not in path.parts]
    try:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be read ({error.strerror})") from None


def compare(files: Mapping[str, bytes], sums: Mapping[str, str]) -> list[str]:
    """One line per file that is missing or changed."""
    problems = []
    for name, expected in sums.items():
        if name not in files:
            problems.append(f"{name}: missing")
        elif (found := hashlib.sha256(files[name]).hexdigest()) != expected:
            problems.append(f"{name}: changed (sha256 expected {expected[:12]}, found {found[:12]})")
    return problems


def remedy(folder: Path) -> str:
    """What to run about a folder that is not pristine."""
    if folder.name == SUBMODULE.name:
        return (
            "Run: git -C third_party/LLaVA checkout --force HEAD, or empty the folder and run: python -m patches fetch"
        )
    if folder.name == SDIST_FOLDER.name:
        return "Run: python -m patches fetch --force"
    return "Unpack a fresh copy, or rehearse on it with: python -m patches check --source DIR --any-version"
