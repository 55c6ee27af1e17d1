"""Fetching leaves a whole, checked upstream, or what was there before and one clear message."""

import errno
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from patches import SDIST_SHA256, fetch
from patches.fetch import FetchError
from patches.source import read_pristine


def sdist(folder: Path, files: dict[str, bytes]) -> Path:
    """An archive laid out like the sdist."""
    path = folder / "llava_torch-1.2.2.post1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name if name.startswith(("/", "..")) else f"llava-torch-1.2.2.post1/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[list[str]]:
    """Let pip "download" an archive of these files, whatever its sum. Returns the commands that ran."""
    ran: list[list[str]] = []

    def run(command: list[str], seconds: float) -> str:
        ran.append(list(command))
        if "pip" in command:
            sdist(Path(command[command.index("--dest") + 1]), files)
            return ""
        return "fatal: unable to access the remote"

    monkeypatch.setattr(fetch, "_run", run)
    monkeypatch.setattr(fetch, "_checked", lambda archive: archive)
    return ran


def test_the_sdist_is_fetched_with_pip_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    ran = serve(monkeypatch, {**pristine, "LICENSE": b"Apache", "README.md": b"no"})
    assert fetch.fetch(tmp_path) == (
        "build/upstream: fetched llava-torch==1.2.2.post1 from the package index, 50 files match"
    )
    assert read_pristine(tmp_path / "build/upstream") == pristine
    assert sorted(path.name for path in (tmp_path / "build/upstream").iterdir()) == ["LICENSE", "llava"]
    assert [*ran[0][1:6], ran[0][-1]] == [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "llava-torch==1.2.2.post1",
    ]
    assert fetch.fetch(tmp_path) == "build/upstream: already there, 50 files match"
    assert len(ran) == 1


def test_a_changed_file_in_the_download_is_refused_and_the_old_folder_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    serve(monkeypatch, pristine)
    fetch.fetch(tmp_path)
    serve(monkeypatch, {**pristine, "llava/utils.py": b"import evil\n"})
    with pytest.raises(FetchError, match="the downloaded sdist is not pristine"):
        fetch.fetch(tmp_path, force=True)
    assert read_pristine(tmp_path / "build/upstream") == pristine
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["upstream"]


def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    def run(command: list[str], seconds: float) -> str:
        archive = sdist(Path(command[command.index("--dest") + 1]), pristine)
        archive.write_bytes(archive.read_bytes()[:20000])
        return ""

    monkeypatch.setattr(fetch, "_run", run)
    with pytest.raises(FetchError) as error:
        fetch.fetch_sdist(tmp_path)
    assert f"sha256 expected {SDIST_SHA256[:12]}, found" in str(error.value)
    assert "(20000 bytes): a damaged download" in str(error.value)
    assert "python -m patches fetch" in str(error.value)
    assert list((tmp_path / "build").iterdir()) == []


def test_a_full_disk_is_said_and_the_old_folder_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    serve(monkeypatch, pristine)
    fetch.fetch(tmp_path)
    monkeypatch.setattr(
        fetch, "_checked", lambda archive: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    )
    with pytest.raises(FetchError) as error:
        fetch.fetch_sdist(tmp_path)
    assert str(error.value).startswith("build/upstream: cannot be written (No space left); make room")
    assert read_pristine(tmp_path / "build/upstream") == pristine
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["upstream"]


def test_a_truncated_archive_is_refused(tmp_path: Path, pristine: dict[str, bytes]) -> None:
    archive = sdist(tmp_path, pristine)
    archive.write_bytes(archive.read_bytes()[:20000])
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetch.unpack(archive, tmp_path / "out")


def test_paths_out_of_the_folder_are_not_written(tmp_path: Path) -> None:
    archive = sdist(tmp_path, {"llava/a.py": b"1", "llava/../../../evil.py": b"2", "/llava/evil.py": b"3"})
    fetch.unpack(archive, tmp_path / "a/b/out")
    written = sorted(tmp_path.rglob("*.py"))
    assert tmp_path / "a/b/out/llava/a.py" in written
    assert all(path.is_relative_to(tmp_path / "a/b/out") for path in written)
    assert not any(path.read_bytes() == b"2" for path in written)


def test_a_half_unpacked_folder_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    serve(monkeypatch, pristine)
    fetch.fetch(tmp_path)
    shutil.rmtree(tmp_path / "build/upstream/llava/model")
    assert "fetched" in fetch.fetch(tmp_path)
    assert read_pristine(tmp_path / "build/upstream") == pristine


def test_an_unreachable_registry_and_remote_give_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(FetchError) as error:
        fetch.fetch(tmp_path)
    message = str(error.value)
    assert "llava-torch==1.2.2.post1 could not be downloaded: ERROR:" in message
    assert "pip config list" in message
    assert "set LLAVA_SRC to it" in message
    assert "third_party/LLaVA: could not be filled from https://github.com/haotian-liu/LLaVA.git" in message
    assert not (tmp_path / "build/upstream").exists()


def test_git_fills_the_submodule_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pristine: dict[str, bytes]
) -> None:
    remote, checkout = tmp_path / "remote", tmp_path / "checkout"
    for name, content in pristine.items():
        (remote / name).parent.mkdir(parents=True, exist_ok=True)
        (remote / name).write_bytes(content)

    def git(folder: Path, *arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
        subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)

    checkout.mkdir()
    for folder in (remote, checkout):
        git(folder, "init", "-q")
    git(remote, "add", ".")
    git(remote, "commit", "-q", "-m", "upstream")
    git(checkout, "submodule", "add", "-q", str(remote), "third_party/LLaVA")
    git(checkout, "commit", "-q", "-m", "wrap")
    git(checkout, "submodule", "deinit", "-q", "-f", "third_party/LLaVA")
    for key, value in (("COUNT", "1"), ("KEY_0", "protocol.file.allow"), ("VALUE_0", "always")):
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    assert fetch.fetch(checkout, git=True).startswith("third_party/LLaVA: filled at 24fa1d065bbe")
    assert read_pristine(checkout / "third_party/LLaVA") == pristine


def test_files_put_into_the_submodule_by_hand_are_not_taken_for_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "third_party/LLaVA").mkdir(parents=True)
    (tmp_path / "third_party/LLaVA/README.md").write_text("by hand")
    with pytest.raises(FetchError, match="holds files but is no git checkout; empty the folder"):
        fetch.fetch_submodule(tmp_path)
