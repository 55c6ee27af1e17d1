"""Names of pictures and sizes of their files, at the places where one step more or less would be another answer."""

from pathlib import Path

import pytest

from data_prep.errors import PictureError, PictureFault
from data_prep.records.names import resolve_image, same_name
from data_prep.records.picture import BYTES_A_PIXEL, read_picture


def test_a_relative_folder_is_that_of_the_working_folder_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first/pics/sub").mkdir(parents=True)
    (tmp_path / "second/pics").mkdir(parents=True)
    (tmp_path / "second/pics/sub").symlink_to(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "first")
    assert resolve_image("pics", "sub/a.jpg") == Path("pics/sub/a.jpg")
    monkeypatch.chdir(tmp_path / "second")
    with pytest.raises(PictureError, match="a link that leads out of the image folder pics") as error:
        resolve_image("pics", "sub/a.jpg")
    assert error.value.fault is PictureFault.OUTSIDE


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.jpg", "a.jpg"), ("sub/a.jpg", "sub/a.jpg"), ("sub\\a.jpg", "sub/a.jpg"), ("./a.jpg", "a.jpg"),
        (".//sub//a.jpg", "sub/a.jpg"), ("sub/./a.jpg", "sub/a.jpg"), ("\\sub\\a.jpg", "/sub/a.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)  # fmt: skip
def test_a_name_has_one_spelling(name: str, wanted: str) -> None:
    assert same_name(name) == wanted


def test_a_file_may_be_as_large_as_its_pixels_allow_and_not_a_byte_larger(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * (5 * BYTES_A_PIXEL))
    assert len(read_picture(path, max_pixels=5)) == 5 * BYTES_A_PIXEL
    path.write_bytes(b"x" * (5 * BYTES_A_PIXEL + 1))
    with pytest.raises(PictureError, match="a file of 81 bytes, larger than any picture allowed") as error:
        read_picture(path, max_pixels=5)
    assert error.value.fault is PictureFault.HUGE
