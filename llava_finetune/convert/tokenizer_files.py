"""Tokenizer files, copied as they are, with the picture token added in the JSON.

Why not `save_pretrained`: transformers 5 drops `legacy` and `tokenizer.model`, and a legacy tokenizer then reloads as a
new one that tokenises differently after `</s>`.

    token_id = write_tokenizer(source, out, processor_class="LlavaProcessor")
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from llava_finetune.errors import UserError
from llava_finetune.manifest import read_json, write_json

IMAGE_TOKEN = "<image>"
FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def copy_tokenizer(source: Path, target: Path) -> list[str]:
    """Copy a folder's tokenizer files; returns their names. Raises UserError when there are none."""
    names = [name for name in FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(names):
        raise UserError(f"{source}: no tokenizer files (tokenizer.json or tokenizer.model); the base model has them")
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer as upstream's loader builds it. `trust_remote_code` stays off."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), use_fast=False, trust_remote_code=False)


def image_token_id(tokenizer: Any) -> int | None:
    """Id of `<image>` when the tokenizer holds it as one token of its own."""
    ids = tokenizer(IMAGE_TOKEN, add_special_tokens=False).input_ids
    known = tokenizer.get_vocab().get(IMAGE_TOKEN)
    return known if known is not None and ids == [known] else None


def write_tokenizer(source: Path, target: Path, processor_class: str) -> int:
    """Copy the tokenizer, add `<image>` if it is not there, set left padding; returns the token's id."""
    copy_tokenizer(source, target)
    tokenizer = load_tokenizer(source)
    token = image_token_id(tokenizer)
    config_path = target / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if token is None:
        token = max(tokenizer.get_vocab().values()) + 1
        _add_token(target, config, token)
    config["processor_class"] = processor_class
    config["padding_side"] = "left"
    config.pop("chat_template", None)
    if tokenizer.pad_token is None:
        config["pad_token"] = tokenizer.unk_token or tokenizer.eos_token
    write_json(config_path, config)
    written = image_token_id(load_tokenizer(target))
    if written != token:
        raise UserError(f"{source}: {IMAGE_TOKEN} should become token {token} and became {written}; unknown tokenizer kind")
    return token


def _add_token(target: Path, config: dict[str, Any], token: int) -> None:
    entry = {"content": IMAGE_TOKEN, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), str(token): entry}
    path = target / "tokenizer.json"
    if path.is_file():
        whole = read_json(path)
        whole["added_tokens"] = [*whole.get("added_tokens", []), {"id": token, **entry}]
        write_json(path, whole)
    if (target / "added_tokens.json").is_file():
        added = read_json(target / "added_tokens.json")
        write_json(target / "added_tokens.json", {**added, IMAGE_TOKEN: token})
