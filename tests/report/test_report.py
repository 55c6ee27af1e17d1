"""The report of one run: whole, partial, broken, hostile; one file, nothing fetched, every part there."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from llava_finetune.report import write_report
from llava_finetune.report.model_card import model_card
from llava_finetune.report.page import run_page
from llava_finetune.report.run_folder import read_run
from llava_finetune.report.writing import summary

VOID = {"meta", "img", "input", "line", "circle", "polyline", "br", "link"}


class Page(HTMLParser):
    """Reads a page: every tag closed in order, the sections, the texts, the addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "section":
            self.sections.append(given["id"])
        self.scripts += tag == "script"
        self.addresses += [given[name] for name in ("src", "href", "data", "action") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data.replace("\u00a0", " ").replace("\u2011", "-")


def report_of(folder):
    """The report without its PNG curves, which cost a second."""
    run = read_run(folder)
    return Page(run_page(run)), json.loads(json.dumps(summary(run)))


def written_report_of(folder):
    write_report(folder)
    return Page((folder / "report.html").read_text("utf-8")), json.loads((folder / "report.json").read_text("utf-8"))


def test_a_whole_run_has_every_part(make_run):
    page, data = written_report_of(make_run())
    expected = ["scores", "curves", "answers", "confusions", "worst", "hallucination", "probe", "data", "manifest"]
    assert page.sections == expected
    for name in ("baseline", "text_prior", "blind", "final"):
        assert {"exact_match", "interval", "count", "num_images", "by_type"} <= set(data[name])
    assert data["finished"] and data["missing"] == [] and data["current"] == "final"
    assert sum(data["changes"].values()) == data["final"]["count"] == 72
    assert data["paired_tests"]["baseline"]["p_value"] < 0.001
    assert set(data["probe"]) == {"probe-baseline", "probe-30", "probe-final"}


def test_the_summary_says_what_was_measured_in_words(make_run):
    page, data = report_of(make_run())
    first, last = (100 * data[name]["exact_match"] for name in ("baseline", "final"))
    assert f"Exact match rose from {first:.1f} % to {last:.1f} % (95 % interval" in page.text
    assert "on 72 questions about 12 held-out pictures" in page.text
    assert "the same model blind" in page.text and "points come from looking at the picture" in page.text
    assert "changed from wrong to right" in page.text
    assert "general questions" in page.text and "On the probe set" not in page.text


def test_the_page_fetches_nothing(make_run):
    folder = make_run()
    page, _ = report_of(folder)
    assert page.addresses, "pictures and anchors are there"
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    html = run_page(read_run(folder))
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_pictures_travel_inside_the_page(make_run):
    folder = make_run()
    assert run_page(read_run(folder)).count("data:image/png;base64,") >= 12


def test_curves_are_written_as_png(make_run):
    folder = make_run()
    _, data = written_report_of(folder)
    assert data["curves"] == ["curves.png", "loss.png", "scores.png"]
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in data["curves"])


def test_the_command_can_be_pasted_into_a_shell(make_run):
    page, _ = report_of(make_run())
    assert "--output_dir 'runs/made run'" in page.text


def test_a_running_run_is_reported_as_far_as_it_is(make_run):
    page, data = report_of(make_run(upto=30))
    assert not data["finished"] and data["last_step"] == 30
    assert "step 30 of 60, about 2 min left when logged" in page.text
    assert "At step 30 exact match on held-out data is" in page.text
    assert "no score after training (scores-final.json): it is written when training ends" in page.text
    assert "final" not in data


def test_stages_in_folders_of_their_own_are_one_run(make_run):
    folder = make_run(num_images=2)
    for name, started in (("pretrain", "2026-05-04T08:00:00"), ("finetune", "2026-05-04T09:00:00")):
        (folder / name).mkdir()
        manifest = json.loads((folder / "run.json").read_text())
        (folder / name / "run.json").write_text(
            json.dumps({**manifest, "started": started, "command": ["train", name]})
        )
        shutil.copy(folder / "log.jsonl", folder / name)
    (folder / "run.json").unlink()
    (folder / "log.jsonl").unlink()
    page, data = report_of(folder)
    assert "Loss, pretrain" in page.text and "Loss, finetune" in page.text
    assert "train pretrain" in page.text and "train finetune" in page.text
    assert data["last_step"] == 60 and data["missing"] == []


def test_a_check_of_the_data_is_summed_up(make_run):
    folder = make_run(num_images=1)
    found = {"kind": "record twice", "severity": "warning", "count": 6, "why": "it counts double", "examples": []}
    statistics = {"answers": {"count": 9, "distinct": 2, "most_common": [["red", 0.667], ["blue", 0.333]]}}
    check = {"ok": True, "path": "r.json", "records": 9, "pictures": 2, "decoded": True, "statistics": statistics}
    (folder / "check.json").write_text(json.dumps({**check, "findings": [found]}))
    page, _ = report_of(folder)
    assert "r.json: 9 records, 2 pictures, all decoded; nothing stands in the way of training." in page.text
    assert "it counts double" in page.text and "percent of 9 answers, 2 different" in page.text


def test_an_empty_folder_still_gives_a_page(tmp_path):
    page, data = written_report_of(tmp_path)
    assert page.sections == ["missing"]
    assert "This run has logged nothing yet." in page.text
    assert any("no training log (log.jsonl)" in text for text in data["missing"])


FILES = [
    "run.json", "check.json", "log.jsonl", "scores-baseline.json", "scores-final.json", "predictions-final.jsonl",
    "predictions-baseline.jsonl", "scores-text_prior.json", "scores-blind.json", "predictions-probe-final.jsonl",
    "images",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_any_one_file_may_be_missing(make_run, name):
    folder = make_run(num_images=3)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page, data = report_of(folder)
    assert "scores" in page.sections or "curves" in page.sections
    assert data["headline"]


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("content", [b"", b'{"step": 1, "lo', b"[1, 2]", b"\xff\xfe", b"null"])
def test_any_one_file_may_be_broken(make_run, name, content):
    folder = make_run(num_images=1, steps=6)
    (folder / name).write_bytes(content)
    page, data = report_of(folder)
    assert any(name in line for line in data["missing"]), "what is broken is named"
    assert "scores" in page.sections or "curves" in page.sections


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("scores-final.json", ("by_type",), 5), ("scores-final.json", ("count",), "x"),
        ("scores-final.json", ("interval",), ["a", "b"]), ("scores-final.json", ("num_images",), "x"),
        ("scores-final.json", ("by_type", "open", "exact_match"), []), ("scores-final.json", ("num_truncated",), []),
        ("scores-final.json", ("exact_match",), 1e308), ("scores-final.json", ("false_yes_interval",), None),
        ("certificate.json", ("engines",), [5]), ("certificate.json", ("engines",), [{"notes": 5}]),
        ("certificate.json", ("engines",), [{"differences": [5]}]),
        ("run.json", ("arguments",), {"model": {"model_name_or_path": [5]}}),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_left_out_or_named(make_run, name, place, value):
    folder = make_run(num_images=2)
    path = folder / name
    held = json.loads(path.read_text()) if path.exists() else {}
    inner = held
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(held))
    page, _ = report_of(folder)
    assert "scores" in page.sections
    if name == "run.json":
        model_card(folder, read_run(folder))


ODD = ([5], {"a": 1}, "x", -1, 10**40, 1e308, -1e308, True, "")


ROWS = {
    ("predictions-final.jsonl", "scores"): "image turn answers type question_type box_scale loss id",
    ("log.jsonl", "curves"): "step loss grad_norm learning_rate eval_exact_match warning",
}


@pytest.mark.parametrize(
    ("name", "section", "key"), [(*place, key) for place, keys in ROWS.items() for key in keys.split()]
)
def test_a_value_of_a_row_may_be_anything(make_run, name, section, key):
    folder = make_run(num_images=1, steps=6)
    path = folder / name
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    odd = [{**rows[0], key: value} for value in ODD]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *odd]))
    page, _ = report_of(folder)
    assert section in page.sections


def test_a_broken_line_in_the_log_is_counted_and_the_last_is_left_for_later(make_run):
    folder = make_run(num_images=1)
    lines = (folder / "log.jsonl").read_text().splitlines()
    lines[3] = '{"step": 4, "loss'
    (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "lo')
    _, data = report_of(folder)
    assert "log.jsonl: 1 lines are not JSON and are left out" in data["missing"]


def test_pictures_that_are_gone_are_said_not_raised(make_run):
    folder = make_run(num_images=2)
    shutil.rmtree(folder / "images")
    page, _ = report_of(folder)
    assert "2 pictures could not be shown, the first:" in page.text and "not found: " in page.text


def test_pictures_may_come_from_another_folder(make_run, tmp_path):
    folder = make_run(num_images=2)
    (folder / "images").rename(tmp_path / "moved")
    assert "could not be shown" not in run_page(read_run(folder), tmp_path / "moved")


def test_texts_of_the_model_cannot_become_markup(make_run):
    folder = make_run(num_images=2)
    evil = '</script><script>alert(1)</script><img src="http://x/y"> & "quotes"'
    path = folder / "predictions-final.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.update(answer=evil, question=evil, id=evil, question_type=evil)
    path.write_text("\n".join(map(json.dumps, rows)))
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, "base": evil, evil: evil, "command": [evil]}))
    page, _ = report_of(folder)
    assert page.scripts == 1 and evil in page.text
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)


def test_numbers_that_are_not_finite_are_said_and_left_out(make_run):
    folder = make_run(num_images=1)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 61, "loss": NaN, "grad_norm": Infinity}\n')
    page, data = written_report_of(folder)
    assert "Loss or gradient was not a number at step 61." in data["summary"]
    assert "NaN" not in (folder / "report.json").read_text()
    assert "curves" in page.sections


def test_a_missing_gradient_norm_is_not_called_broken(make_run):
    folder = make_run(num_images=1)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 61, "loss": 0.1, "grad_norm": null}\n')
    assert not any("not a number" in text for text in report_of(folder)[1]["summary"])


def test_overfitting_is_said_in_words(make_run):
    folder = make_run(num_images=1, upto=1)
    rows = [{"step": s, "loss": 2 - s / 40} for s in range(1, 61)]
    rows += [{"step": 10 * n, "eval_loss": loss} for n, loss in enumerate((1.5, 1.0, 1.2, 1.4), start=1)]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert any(
        text.startswith("Overfitting: since step 20 the loss on held-out data has risen from 1 to 1.4 (step 40)")
        for text in report_of(folder)[1]["summary"]
    )


@pytest.mark.parametrize(
    ("images", "end"),
    [(4, "are too few to be sure; take more held-out pictures"), (40, "nothing shows that the model uses the picture")],
)
def test_a_score_within_the_prior_is_called_so(make_run, images, end):
    folder = make_run(num_images=images)
    shutil.copy(folder / "predictions-blind.jsonl", folder / "predictions-final.jsonl")
    shutil.copy(folder / "scores-blind.json", folder / "scores-final.json")
    page, _ = report_of(folder)
    assert "The score cannot be told apart from: text-only prior, blind" in page.text.replace("  ", " ")
    assert end in page.text


def test_a_paired_test_that_tells_them_apart_is_no_doubt(make_run, monkeypatch):
    """Intervals may overlap where the same questions, one by one, leave no doubt."""
    from llava_finetune.report import words

    folder = make_run(num_images=8, skill=0.75)
    overlapping = {"exact_match": 0.7, "interval": [0.1, 0.9]}
    run = read_run(folder)
    now = words.current(run)
    control = run.evaluations["blind"]
    monkeypatch.setitem(control.scores, "interval", overlapping["interval"])
    assert now.scores["exact_match"] > control.scores["exact_match"]
    assert words.beats(now, control)
    assert "blind" not in words.doubt(run)


def test_scores_are_computed_where_only_predictions_are_there(make_run):
    folder = make_run(num_images=2)
    expected = json.loads((folder / "scores-final.json").read_text())["exact_match"]
    (folder / "scores-final.json").unlink()
    assert report_of(folder)[1]["final"]["exact_match"] == expected


def test_ten_references_bring_the_vqa_accuracy_into_the_report(make_run):
    folder = make_run(num_images=2)
    for name in ("baseline", "final"):
        path = folder / f"predictions-{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps({**row, "answers": [row["reference"]] * 5 + ["x"] * 5}) for row in rows))
        (folder / f"scores-{name}.json").unlink()
    page, _ = report_of(folder)
    assert "VQA accuracy against before training" in page.text


def test_cut_answers_are_counted(make_run):
    folder = make_run(num_images=1)
    scores = json.loads((folder / "scores-final.json").read_text())
    (folder / "scores-final.json").write_text(json.dumps({**scores, "num_truncated": 3}))
    assert "3 answers hit the length limit and were cut" in report_of(folder)[0].text


def test_a_page_stays_small_however_many_questions_there_are(make_run):
    folder = make_run(num_images=150)
    page, _ = written_report_of(folder)
    assert (folder / "report.html").stat().st_size < 1_000_000
    assert "of 900 answers are shown" in page.text


def test_nothing_half_written_is_left_beside_the_report(make_run):
    folder = make_run(num_images=1)
    write_report(folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "none")
