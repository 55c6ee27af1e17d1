"""evaluate, chat and serve say what a model costs: load time, memory and tokens per second, in 16, 8 and 4 bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava_finetune.evaluation.evaluate import main as evaluate

LOADED = r"loaded \S+ in \d+\.\d s: {bits}bfloat16 on cpu, \d+\.\d\d GB of weights, \d+\.\d\d GB held by the process, "


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_evaluate_prints_load_time_memory_and_rate_in_every_width(
    adapter: Path, held_out: Path, bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(adapter), "--data", str(held_out / "records.json"), "--image_folder", str(held_out)]
    words += ["--output", str(tmp_path), "--limit", "4", "--max_new_tokens", "3", "--dtype", "bf16", "--device", "cpu"]
    assert evaluate([*words, "--bits", str(bits)]) == 0
    out = capsys.readouterr().out
    assert re.search(LOADED.format(bits="" if bits == 16 else f"{bits}-bit, "), out)
    assert re.search(r"answered at \d+\.\d tokens/s", out)


@pytest.mark.parametrize("bits", ["4", "8"])
def test_serve_prints_them_before_it_listens_and_the_page_shows_them(
    adapter: Path, bits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from llava_finetune.serve import command
    from llava_finetune.serve.models import choice_of, load_model

    arguments = command.parser().parse_args([str(adapter), "--bits", bits, "--dtype", "bf16", "--device", "cpu"])
    choice = choice_of(arguments)
    server, about = command.build_server(arguments, command.access_of(arguments), load_model(choice), choice)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("loaded ")]
    assert len(lines) == len(server.engines) == 2, "the fine-tuned model and its base"
    for line in lines:
        assert re.search(LOADED.format(bits=f"{bits}-bit, "), line)
        assert re.search(r", \d+\.\d tokens/s for one answer$", line)
    assert "GB of weights" in about
    assert "llava_tokens_per_second" in server.metrics.render().decode()
    assert all(engine.close() for engine in server.engines.values())


def test_a_model_that_cannot_answer_ends_serve_with_its_error(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_finetune.errors import UserError
    from llava_finetune.model.loading import load
    from llava_finetune.serve import batch, command
    from llava_finetune.serve.models import ModelChoice

    def broken(self: object, prompts: object) -> None:
        raise RuntimeError("no room on the device")

    monkeypatch.setattr(batch.Batch, "join", broken)
    with pytest.raises(UserError, match="does not answer: RuntimeError: no room on the device"):
        command.start_engine(load(str(adapter), dtype="fp32"), ModelChoice(str(adapter)), {})
