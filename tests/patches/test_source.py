"""Upstream is found in a fixed order and used only when every sum matches."""

from pathlib import Path

import pytest

from patches.source import SourceError, find_source, read_pristine, read_sums


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_the_sums_name_fifty_files() -> None:
    sums = read_sums()
    assert len(sums) == 50
    assert all(name.startswith("llava/") and len(digest) == 64 for name, digest in sums.items())


def test_the_asked_folder_wins_then_the_environment_then_the_submodule_then_the_sdist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAVA_SRC", raising=False)
    files = {"llava/__init__.py": b""}
    sdist = put(tmp_path / "build/upstream", files)
    assert find_source(root=tmp_path) == sdist
    submodule = put(tmp_path / "third_party/LLaVA", files)
    assert find_source(root=tmp_path) == submodule
    other = put(tmp_path / "other", files)
    monkeypatch.setenv("LLAVA_SRC", str(other))
    assert find_source(root=tmp_path) == other
    asked = put(tmp_path / "asked", files)
    assert find_source(asked, tmp_path) == asked


def test_an_unfilled_submodule_is_passed_over_and_fetch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAVA_SRC", raising=False)
    (tmp_path / "third_party/LLaVA").mkdir(parents=True)
    with pytest.raises(SourceError) as error:
        find_source(root=tmp_path)
    assert str(error.value) == (
        "no upstream found: third_party/LLaVA is not filled and build/upstream does not exist. "
        "Run: python -m patches fetch"
    )


def test_a_folder_without_llava_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder llava/ in it; name the root of a LLaVA checkout"):
        find_source(tmp_path)


def test_a_half_unpacked_sdist_is_refused_with_the_missing_files(tmp_path: Path, pristine: dict[str, bytes]) -> None:
    half = dict(list(pristine.items())[:20])
    folder = put(tmp_path / "build/upstream", half)
    with pytest.raises(SourceError) as error:
        read_pristine(folder)
    assert "30 of 50 files differ" in str(error.value)
    assert "missing" in str(error.value)
    assert "and 20 more" in str(error.value)
    assert str(error.value).endswith("Run: python -m patches fetch --force")


def test_a_changed_file_is_refused_with_both_sums(copy_of_upstream: Path) -> None:
    changed = copy_of_upstream / "llava/model/builder.py"
    changed.write_bytes(changed.read_bytes() + b"\n")
    with pytest.raises(SourceError) as error:
        read_pristine(copy_of_upstream)
    assert "llava/model/builder.py: changed (sha256 expected " in str(error.value)
    assert "1 of 50 files differ" in str(error.value)


def test_byte_code_beside_the_files_does_not_count(copy_of_upstream: Path, pristine: dict[str, bytes]) -> None:
    put(copy_of_upstream, {"llava/__pycache__/x.py": b"junk", "llava/eval/table.json": b"{}"})
    assert read_pristine(copy_of_upstream) == pristine
