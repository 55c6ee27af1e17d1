"""Tokenizer files: copied as they are, with a tokenizer.json that holds the tokenisation of training and `<image>`.

Why not `save_pretrained`: transformers 5 drops `legacy` and `tokenizer.model`, and a legacy tokenizer then reloads as a
new one that tokenises differently after `</s>`.

    token_id = write_tokenizer(source, out, processor_class="LlavaProcessor")
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data_prep.records.marks import IMAGE_TOKEN
from llava_finetune.errors import UserError
from llava_finetune.saved.manifest import read_json, write_json
from llava_finetune.saved.model_files import TOKENIZER_FILES, TOKENIZERS
from llava_finetune.saved.sound import blamed_on


def copy_tokenizer(source: Path, target: Path) -> list[str]:
    """Copy a folder's tokenizer files; returns their names. Raises UserError when there are none."""
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not set(TOKENIZERS) & set(names):
        raise UserError(f"{source}: no tokenizer files (tokenizer.json or tokenizer.model); the base model has them")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer as upstream's loader builds it. `trust_remote_code` stays off. Damaged files raise UserError."""
    from transformers import AutoTokenizer

    with blamed_on(folder, "its tokenizer or chat template cannot be read", "download or copy these files again"):
        return AutoTokenizer.from_pretrained(str(folder), use_fast=False, trust_remote_code=False)


def image_token_id(tokenizer: Any) -> int | None:
    """Id of `<image>` when the tokenizer holds it as one token of its own."""
    ids = tokenizer(IMAGE_TOKEN, add_special_tokens=False).input_ids
    known = tokenizer.get_vocab().get(IMAGE_TOKEN)
    return known if known is not None and ids == [known] else None


def write_tokenizer(source: Path, target: Path, processor_class: str) -> int:
    """Write an exported model's tokenizer with `<image>` in it; returns that token's id.

    tokenizer.json is always written, from the tokenizer as training loaded it: beside a llava config.json transformers
    reads tokenizer.json as it stands, and without one it builds a tokenizer that never puts a leading space.
    """
    copy_tokenizer(source, target)
    tokenizer = load_tokenizer(source)
    token = image_token_id(tokenizer)
    config_path = target / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if token is None:
        token = _add_image_token(tokenizer, config)
        if (target / "added_tokens.json").is_file():
            write_json(target / "added_tokens.json", {**read_json(target / "added_tokens.json"), IMAGE_TOKEN: token})
    write_backend(tokenizer, target, source)
    config["processor_class"] = processor_class
    config["padding_side"] = "left"
    config.pop("chat_template", None)
    if tokenizer.pad_token is None:
        config["pad_token"] = tokenizer.unk_token or tokenizer.eos_token
    write_json(config_path, config)
    return token


def import_tokenizer(source: Path, target: Path) -> None:
    """Write a llava-hf folder's tokenizer for training, tokenising exactly as it does there.

    The class becomes the one that reads tokenizer.json as it stands: transformers 5's LlamaTokenizer would rebuild it.
    """
    copy_tokenizer(source, target)
    write_backend(load_tokenizer(source), target, source)
    path = target / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("chat_template", "processor_class", "padding_side"):
        config.pop(key, None)
    write_json(path, config)


def write_backend(tokenizer: Any, target: Path, source: Path) -> None:
    """Write tokenizer.json from a loaded tokenizer. Raises UserError for a tokenizer that has no such form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{source}: {type(tokenizer).__name__} cannot be written as tokenizer.json; serving engines need that"
        )
    path = target / "tokenizer.json"
    temporary = path.with_name(".tokenizer.json.part")
    temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
    temporary.replace(path)


def stop_token_ids(template: str, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the template's end text when it is one token, and the tokenizer's own end token."""
    from llava_finetune.data.templates import end_text

    ids = tokenizer(end_text(template, tokenizer), add_special_tokens=False).input_ids
    stops = list(ids) if len(ids) == 1 else []
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        stops.append(tokenizer.eos_token_id)
    return stops


def _add_image_token(tokenizer: Any, config: dict[str, Any]) -> int:
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)], special_tokens=True)
    token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    entry = {
        "content": IMAGE_TOKEN,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), str(token): entry}
    return token
