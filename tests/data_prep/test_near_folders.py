"""The wrong folder, the wrong column, the singular of a flag: what a first user types, and what is said of it."""

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.records.near_folder import folder_with, spelled_alike
from data_prep.records.record import read_records, write_records
from tests.data_prep.conftest import draw, record


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures in `My photos` and an empty folder beside it, away from other tests' pictures."""
    home = tmp_path / "home"
    for number in range(2):
        draw(home / "My photos" / f"{number}.jpg", number)
    (home / "other").mkdir()
    monkeypatch.chdir(home)
    return home


def test_the_folder_that_has_the_pictures_is_found_below_above_and_beside(home: Path) -> None:
    names = ["0.jpg", "1.jpg"]
    assert folder_with(home, names) == home / "My photos"
    assert folder_with(home / "other", names) == home / "My photos"
    (home / "My photos" / "deep").mkdir()
    assert folder_with(home / "My photos" / "deep", names) == home / "My photos"
    assert folder_with(home, ["2.jpg", "3.jpg", "0.jpg"]) is None, "a third of them is no folder that is meant"
    draw(home / "copy" / "0.jpg", 0)
    assert folder_with(home, ["0.jpg"]) is None, "two folders have it"
    assert folder_with(home, ["../0.jpg", str(home / "My photos" / "0.jpg")]) is None


def test_check_and_table_name_the_folder_one_level_down(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(home / "r.json", [record("one", "0.jpg"), record("two", "gone.jpg")])
    assert main(["check", "r.json", "--images", "."]) == 1
    said = capsys.readouterr().out
    assert "0.jpg: no such picture; it is in My photos: --images 'My photos'" in said
    assert "python -m data_prep check r.json --images . --fix r-mended.json" in said
    (home / "t.csv").write_text("image,question,answer\n0.jpg,What?,a\n1.jpg,What?,b\n")
    assert main(["table", "t.csv", "--images", ".", "--output", "t.json"]) == 1
    error = capsys.readouterr().err
    assert "image missing: t.csv line 2: 0.jpg; the pictures are in My photos: --images 'My photos'" in error
    assert main(["table", "t.csv", "--images", "my photo", "--output", "t.json"]) == 2
    assert capsys.readouterr().err == "error: my photo: no such folder; did you mean My photos?\n"
    assert spelled_alike(home / "nothing like it") is None
    assert main(["table", "t.csv", "--image", "My photos", "--output", "t.json"]) == 0, "the singular is taken, too"


def test_all_columns_that_are_not_known_are_told_at_once_with_their_options(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "t.csv").write_text("Archivo,Pregunta,Respuesta\n0.jpg,\u00bfQu\u00e9 es?,caja\n", encoding="utf-8")
    words = ["table", "t.csv", "--images", "My photos", "--output", "t.json"]
    assert main(words) == 1
    error = capsys.readouterr().err
    options = "--image-column Archivo --question-column Pregunta --answer-column COLUMN"
    assert f"there are Archivo, Pregunta, Respuesta; name them: {options}" in error
    assert main([*words, *options.replace("COLUMN", "Respuesta").split()]) == 0


def test_a_sheet_of_german_excel_is_read_as_it_is(home: Path) -> None:
    draw(home / "My photos" / "\u00c4pfel.jpg", 3)
    sheet = (
        "sep=;\r\nDatei;Frage;Antwort;Preis in \u20ac\r\n\u00c4pfel.jpg;Was kostet es?;1,37;1,37\r\n;Was?;nichts;0\r\n"
    )
    (home / "Obst.csv").write_bytes(sheet.encode("cp1252"))
    words = ["table", "Obst.csv", "--images", "My photos", "--encoding", "cp1252", "--output", "t.json"]
    assert main([*words, "--allow-drops", "0.5"]) == 0
    first = read_records("t.json")[0]
    assert first["image"] == "\u00c4pfel.jpg"
    assert first["conversations"][1]["value"] == "1,37", "a decimal comma stays"
    assert json.loads(Path("t.meta.json").read_text())["counts"]["dropped"] == {"no image named": 1}
