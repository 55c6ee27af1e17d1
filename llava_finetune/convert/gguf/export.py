"""Write both GGUF files of a trained model, with the Modelfile of Ollama and how to serve them; whole or not at all.

export_gguf("merged", Path("gguf"), file_type="q8_0")
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_finetune.convert.gguf import ollama
from llava_finetune.convert.gguf.chat_template import Choice, choose_template
from llava_finetune.convert.gguf.file_types import FILE_TYPES
from llava_finetune.convert.gguf.files import GgufFile
from llava_finetune.convert.gguf.image_encoder import image_encoder
from llava_finetune.convert.gguf.k_quants import K_QUANTS, SHARE, check_memory, find_quantizer, quantize
from llava_finetune.convert.gguf.language_model import language_model
from llava_finetune.convert.gguf.notes import notes_on
from llava_finetune.convert.gguf.source import Source, read_source
from llava_finetune.convert.gguf.vocabulary import read_vocabulary
from llava_finetune.errors import UserError
from llava_finetune.report.model_card import carry_card
from llava_finetune.saved.new_folder import check_free, new_folder, resolve_folder


@dataclass(frozen=True)
class Written:
    """What was written: folder, files, their bytes together, how it was checked, what differs in llama.cpp."""

    folder: str
    model: str
    mmproj: str
    type: str
    bytes: int
    conversation: str
    checked: str
    notes: list[str]
    serve: str
    seconds: float


def export_gguf(
    model: str,
    output: Path,
    *,
    file_type: str = "f16",
    conversation: str | None = None,
    vision_tower: str | None = None,
) -> Written:
    """Plan both files, check tokens and room on the disk, write them in a stream, let the folder appear.

    Raises UserError, and leaves nothing behind, when the model cannot be expressed or the disk refuses.
    """
    start = time.monotonic()
    quantizer = find_quantizer(file_type) if file_type in K_QUANTS else None
    kind = FILE_TYPES["f16" if quantizer else file_type]
    check_free(output)
    source = read_source(resolve_folder(model), vision_tower)
    tokenizer, template = _tokenizer_and_template(source, conversation)
    choice, num_probes = _choose(source, tokenizer, template)
    planned = {
        f"model-{kind.name}.gguf": language_model(source, choice.vocabulary, choice.template, kind),
        f"mmproj-{kind.name}.gguf": image_encoder(source, kind),
    }
    checked = (
        f"token ids of {num_probes} conversations are those of training, as llama.cpp splits text; ask the engine "
        f"itself: llava-finetune certify {model} --engines llama.cpp"
    )
    notes = notes_on(source, template, tokenizer)
    room = sum(file.size for file in planned.values())
    if quantizer:
        language = next(iter(planned.values()))
        check_memory(language, file_type)
        room += int(SHARE * language.num_bytes)
    with _whole_folder(output, room) as partial:
        size = _write(partial, planned)
        names = list(planned)
        if quantizer:
            names[0] = f"model-{file_type}.gguf"
            size = quantize(partial / f"model-{kind.name}.gguf", partial / names[0], file_type, quantizer)
            size += (partial / names[1]).stat().st_size
        serve = ollama.server_line(output, names)
        text = ollama.modelfile(template, choice.beginning, tokenizer, names, notes)
        (partial / "Modelfile").write_text(text, encoding="utf-8")
        _write_manifest(partial, source, template, file_type, names, checked)
        carry_card(partial, source.folder, output.name)
    seconds = time.monotonic() - start
    return Written(str(output), names[0], names[1], file_type, size, template, checked, notes, serve, seconds)


def _tokenizer_and_template(source: Source, conversation: str | None) -> tuple[Any, str]:
    """The tokenizer as training loads it, and the conversation: as named, else as the folder's own files tell."""
    from llava_finetune.model.building import load_config, load_tokenizer, template_of

    folder = str(source.folder)
    tokenizer = load_tokenizer(folder, None, 2048)
    return tokenizer, template_of(conversation, folder, load_config(folder), tokenizer)


def _choose(source: Source, tokenizer: Any, template: str) -> tuple[Choice, int]:
    """Vocabulary and chat template, checked on conversations of every shape; how many they were."""
    from llava_finetune.convert.parity import probe_ids, usable_probes
    from llava_finetune.convert.tokenizer_files import stop_token_ids

    chosen = usable_probes(template, int(source.vision["image_size"]))
    ends = stop_token_ids(template, tokenizer)
    vocabulary = read_vocabulary(tokenizer, source.rows(), ends[0] if ends else None)
    references = [(probe, probe_ids(probe, template, tokenizer)[0]) for probe in chosen]
    return choose_template(vocabulary, tokenizer, template, references), len(chosen)


@contextmanager
def _whole_folder(output: Path, size: int) -> Iterator[Path]:
    """A folder that appears whole; a disk that is too small or refuses is one message and leaves nothing."""
    try:
        with new_folder(output) as partial:
            free = shutil.disk_usage(partial).free
            if free < size:
                raise UserError(
                    f"{output}: writing takes {size / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free; "
                    "make room, give a folder on another disk, or a smaller --type (q8_0 is half of f16)"
                )
            yield partial
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or error}); nothing was left behind. Give a folder that you "
            f"may write, on a disk with {size / 1e9:.1f} GB free"
        ) from error


def _write(folder: Path, planned: dict[str, GgufFile]) -> int:
    from data_prep.progress import Progress

    total = sum(file.num_bytes for file in planned.values())
    with Progress("writing GGUF,", total // 1_000_000, "MB") as progress:
        return sum(file.write(folder / name, progress.advance) for name, file in planned.items())


def _write_manifest(out: Path, source: Source, template: str, file_type: str, names: list[str], checked: str) -> None:
    from llava_finetune.saved.manifest import write_manifest

    write_manifest(
        out,
        kind="gguf",
        base=str(source.folder),
        conversation=template,
        dtype=file_type,
        model=names[0],
        mmproj=names[1],
        verified=checked,
    )
