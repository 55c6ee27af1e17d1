"""Upstream's own prompts and label masks for given conversations; run with upstream's tree on PYTHONPATH.

python tests/oracle/upstream_masks.py cases.json masks.json
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def _tokenizer(path: str) -> Any:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path, model_max_length=2048, padding_side="right", use_fast=False
    )
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def _one(case: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    from llava import conversation as conversations
    from llava.train import train as upstream

    conversations.default_conversation = conversations.conv_templates[case["template"]]
    source = copy.deepcopy(case["conversations"])
    has_image = any("<image>" in turn["value"] for turn in source)
    if has_image:
        flags = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
        source = upstream.preprocess_multimodal([source], flags)[0]
    template = conversations.default_conversation.copy()
    template.messages = []
    for turn in source:
        template.append_message(template.roles[turn["from"] == "gpt"], turn["value"])
    try:
        prompt = template.get_prompt()
    except (AssertionError, TypeError):  # a first turn of gpt's; `plain`, which upstream joins by itself
        prompt = None
    out = upstream.preprocess([source], tokenizer, has_image=has_image)
    return {"prompt": prompt, "input_ids": out["input_ids"][0].tolist(), "labels": out["labels"][0].tolist()}


def main() -> None:
    cases_path, out_path = map(Path, sys.argv[1:])
    tokenizers: dict[str, Any] = {}
    out = []
    for case in json.loads(cases_path.read_text()):
        path = case["tokenizer"]
        if path not in tokenizers:
            tokenizers[path] = _tokenizer(path)
        try:
            out.append(_one(case, tokenizers[path]))
        except Exception as error:
            # Upstream refuses some cases; what it says goes into the table.
            out.append({"error": f"{type(error).__name__}: {error}"})
    out_path.write_text(json.dumps(out))


if __name__ == "__main__":
    main()
