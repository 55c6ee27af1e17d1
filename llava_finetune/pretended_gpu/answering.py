"""A model loaded on a pretended GPU, and questions about pictures answered by it: what `evaluate` does there.

seen = ask(Job("liuhaotian/llava-v1.5-7b", Setting("full", batch=2)))
seen.trace.mixed     # operators over tensors of two devices
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from llava_finetune.planning.from_config import read_shape
from llava_finetune.pretended_gpu.model_folder import make_folder
from llava_finetune.pretended_gpu.records import write_records
from llava_finetune.pretended_gpu.trace import Trace
from llava_finetune.pretended_gpu.training import Job, Seen, lengths_of, pretended

NEW_TOKENS = 2


def ask(job: Job) -> Seen:
    """Load the job's model in `setting.bits` where its mode is qlora, else in 16, answer a batch, and take its losses.

    What is read back is made up: one picture stands in a prompt, and no answer ends before NEW_TOKENS.
    """
    shape = read_shape(job.model, job.vision_tower)
    trace = Trace(lambda size, asked: 1 if asked == "nonzero" and len(size) == 1 else None)
    seen = Seen(job, trace, "", lengths_of(job, shape))
    with tempfile.TemporaryDirectory() as work:
        folder = make_folder(Path(work), shape, job.layers)
        records = write_records(folder, shape, job.setting, job.setting.batch, job.texts)
        (folder / "pytorch_model.bin").touch()
        with pretended(seen):
            _answer(folder, json.loads(records.read_text(encoding="utf-8")), seen)
    return seen


def _answer(folder: Path, records: list[dict[str, object]], seen: Seen) -> None:
    from llava_finetune.evaluation.generate_answers import answer, questions_from
    from llava_finetune.evaluation.record_losses import with_losses
    from llava_finetune.model.loading import load

    setting, trace = seen.job.setting, seen.trace
    loaded = load(folder, bits=setting.base_bits)
    for parameter in loaded.model.parameters():
        seen.dtypes[parameter.device.type, str(parameter.dtype)] += parameter.numel()
    seen.named["frozen"] = trace.ledger.numbers_of(loaded.model.parameters())
    trace.stage, trace.recording, seen.start = "answer", True, len(trace.ledger.events)
    questions = questions_from(records)
    answers = answer(loaded, questions, folder, batch_size=setting.batch, max_new_tokens=NEW_TOKENS)
    trace.stage = "losses"
    with_losses(loaded, questions, answers, folder, setting.batch)
