"""What a family of transformers' own classes is to the driver: how it is known, reads a record, goes forward, is saved.

A family is one class in one module; docs/architecture.md says under "Where do I add" what else it takes.

    family = open_family("HuggingFaceTB/SmolVLM-500M-Instruct")        # known.py; None for another model
    seen = family.see([picture]); batch = family.batch([ids], [seen], side="right")
"""

from __future__ import annotations

import abc
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from llava_finetune.data.own_template import named_template
from llava_finetune.errors import UserError
from llava_finetune.saved.folders import find_file, read_json
from llava_finetune.saved.sound import blamed_on

FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""What turns records into ids and pixels: copied from the base, so that a result is read as the base is."""

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{{ 'Assistant:' if add_generation_prompt }}"
)
"""The turns of idefics and idefics2, whose folders may bring no chat template of their own."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture as its family's model takes it: tensors by name, and the text that stands in the prompt for it.

    `num_tokens` is how often `text` holds the token that the model puts the picture's features in place of.
    """

    inputs: Mapping[str, torch.Tensor]
    text: str
    num_tokens: int


class Family(abc.ABC):
    """One family, opened on one folder: its tokenizer, its picture processor and its chat template are at hand."""

    types: ClassVar[Mapping[str, str]]
    """`model_type` of config.json, and the class in transformers."""
    end: ClassVar[str]
    """The token that ends an answer, and is taught with it."""
    targets: ClassVar[Mapping[str, str]]
    """--lora_targets: the full names of the linear layers of each part."""
    kept_whole: ClassVar[tuple[str, ...]]
    """Modules that are not quantised by --bits."""

    splits: ClassVar[bool] = False
    """Whether a run may choose, by --image_aspect_ratio, if pictures are cut into tiles."""
    pictures_stand_alone: ClassVar[bool] = True
    """Whether what a picture becomes does not depend on how many there are beside it."""
    serves: ClassVar[bool] = True
    """Whether chat and serve can join it into a batch under way."""
    quantises: ClassVar[bool] = True
    """Whether bitsandbytes can quantise its layers."""

    def __init__(self, source: str, config: Any, tokenizer: Any, pictures: Any, template: str) -> None:
        if not template:
            raise UserError(
                f"{source}: no chat template, which says how {config.model_type} is asked; copy chat_template.json or "
                "chat_template.jinja again from where the model came from"
            )
        self.source, self.config, self.tokenizer = source, config, tokenizer
        self.image_processor, self.chat_template = pictures, template
        self.image_token = "<image>"
        self.changed: dict[str, Any] = {}

    # ---- what a family says ----

    @abc.abstractmethod
    def see(self, images: Sequence[Image.Image]) -> list[Seen]:
        """The RGB pictures of one record, in order, as the model takes them."""

    @abc.abstractmethod
    def collate(self, rows: Sequence[Sequence[Seen]]) -> dict[str, torch.Tensor]:
        """What the model takes beside ids, for rows of pictures; empty without a picture."""

    @staticmethod
    @abc.abstractmethod
    def anchor(model: Any) -> torch.Tensor:
        """Zero, with every weight that pictures go through in its graph: for a batch of text alone, on every rank."""

    @staticmethod
    def is_blind(inputs: Mapping[str, Any]) -> bool:
        """Whether a batch has no picture at all."""
        return inputs.get("pixel_values") is None

    @staticmethod
    def takes_part(name: str, config: Any) -> bool:
        """Whether a tensor is used when the model goes forward; others get no gradient and stay frozen."""
        return True

    def expand(self, text: str, seen: Sequence[Seen]) -> str:
        """`text` with each `<image>` as the tokens of its picture; the pictures are as many as the marks."""
        first, *rest = text.split(self.image_token)
        return first + "".join(one.text + piece for one, piece in zip(seen, rest, strict=True))

    @classmethod
    def modes(cls) -> list[str]:
        """What can be trained, as flags."""
        bits = ["QLoRA (--lora_enable True --bits 4)"] if cls.quantises else []
        return ["full", "frozen language model (--freeze_backbone True)", "LoRA (--lora_enable True)", *bits]

    def split_pictures(self, split: bool) -> None:
        """Whether a picture is cut into tiles, where the family can choose; the result's own files say so too."""
        self.image_processor.do_image_splitting = split
        self.changed["do_image_splitting"] = split

    # ---- what follows from it ----

    @property
    def name(self) -> str:
        """The family's name as config.json says it."""
        return str(self.config.model_type)

    @property
    def language(self) -> Any:
        """The language model's config."""
        return self.config.get_text_config()

    @property
    def context_length(self) -> int:
        """Positions that the language model can read."""
        return int(min(self.language.max_position_embeddings, self.tokenizer.model_max_length))

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        found = {self.tokenizer.convert_tokens_to_ids(self.end), self.tokenizer.eos_token_id}
        return sorted(found - {None, self.tokenizer.unk_token_id})

    def render(self, messages: Sequence[Mapping[str, Any]], is_open: bool) -> str:
        """Messages as the chat template writes them, each picture as `<image>`; open: where the answer begins."""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.chat_template, tokenize=False, add_generation_prompt=is_open
            )
        )

    def tokenize(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character spans. A template that writes the BOS itself gets no second one."""
        bos = self.tokenizer.bos_token
        out = self.tokenizer(
            text, add_special_tokens=not (bos and text.startswith(bos)), return_offsets_mapping=True, truncation=False
        )
        spans, last = [], 0
        for start, end in out["offset_mapping"]:
            # White space is left out of a span, and a token of white space alone has an empty one.
            spans.append((last if start == end else start, end))
            last = max(last, end)
        return list(out["input_ids"]), spans

    def batch(
        self, rows: Sequence[torch.Tensor], seen: Sequence[Sequence[Seen]], side: str = "right"
    ) -> dict[str, torch.Tensor]:
        """Padded input_ids and attention_mask (int64, B x T), and the rows' pictures."""
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad(list(rows), True, self.tokenizer.pad_token_id, padding_side=side)
        mask = pad([torch.ones_like(row) for row in rows], True, 0, padding_side=side)
        return {"input_ids": ids, "attention_mask": mask, **self.collate(seen)}

    def save_processing(self, folder: Path) -> None:
        """What reads records for this model, as the base has it, with what this run changed."""
        for name in FILES:
            if (found := find_file(self.source, name)) is not None and Path(found).resolve() != (
                folder / name
            ).resolve():
                shutil.copyfile(found, folder / name)
        for name in ("preprocessor_config.json", "processor_config.json"):
            file = folder / name
            if self.changed and file.is_file():
                values = json.loads(file.read_text(encoding="utf-8"))
                holder = values.get("image_processor", values if name.startswith("pre") else None)
                if holder is not None:
                    holder.update(self.changed)
                    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Opened:
    """A family's folder, read. `pictures` prepares them; `values` is what processor_config.json says."""

    config: Any
    tokenizer: Any
    pictures: Any
    template: str
    values: Mapping[str, Any]


def read_processing(path: str, cache_dir: str | None) -> Opened:
    """Read what is beside the weights. Pillow prepares pictures, for torchvision's resize gives other pixels."""
    import transformers

    remedy = "copy tokenizer and processor files again from where the model came from"
    with blamed_on(path, "its config cannot be read", "download config.json again"):
        config = transformers.AutoConfig.from_pretrained(path, cache_dir=cache_dir)
    with blamed_on(path, "its tokenizer cannot be read", remedy):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, cache_dir=cache_dir)
    with blamed_on(path, "what prepares its pictures cannot be read", remedy):
        pictures = transformers.AutoImageProcessor.from_pretrained(path, cache_dir=cache_dir, backend="pil")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    values = read_json(path, "processor_config.json") or {}
    with_template = (
        tokenizer.chat_template,
        (read_json(path, "chat_template.json") or {}).get("chat_template"),
        values.get("chat_template"),
    )
    template = named_template(next(filter(None, with_template), None), path)
    return Opened(config, tokenizer, pictures, template, values)


def require_length(path: str, name: str, said: Any, counted: int) -> int:
    """Tokens of a picture. Raises UserError where processor_config.json says others than the model's config makes."""
    if said and said != counted:
        raise UserError(
            f"{path}/processor_config.json: {name}: {said}, and the model makes {counted} of a picture by its "
            "config.json; copy both again from where the model came from"
        )
    return counted


def require_tokens(path: str, opened: Opened, image_token_id: int | None, names: Sequence[str]) -> None:
    """Raise UserError for a token that the tokenizer would split, or that the model has no embedding for."""
    tokenizer = opened.tokenizer
    split = [one for one in names if len(tokenizer(one, add_special_tokens=False).input_ids) != 1]
    if split:
        raise UserError(
            f"{path}: the tokenizer has no token {split[0]}{f' (and {len(split) - 1} more)' if split[1:] else ''}, and "
            "would write it in pieces that the model never saw; copy tokenizer.json and tokenizer_config.json again "
            "from where the model came from"
        )
    found, rows = tokenizer.convert_tokens_to_ids("<image>"), opened.config.get_text_config().vocab_size
    rows += getattr(opened.config, "additional_vocab_size", 0)
    if image_token_id is not None and found != image_token_id:
        raise UserError(
            f"{path}: <image> is token {found} of the tokenizer and {image_token_id} in config.json; copy both again "
            "from where the model came from"
        )
    ids = [tokenizer.convert_tokens_to_ids(one) for one in names]
    if max(ids) >= rows:
        raise UserError(
            f"{path}: token {names[ids.index(max(ids))]} is {max(ids)}, and the model embeds {rows} tokens; "
            "copy config.json, tokenizer.json and the weights again from one place"
        )
