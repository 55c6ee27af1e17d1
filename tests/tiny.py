"""Tiny random models in upstream's layout, built by script: every code path of the real ones, in a second and 1 MB.

Two layers of 64 channels (bitsandbytes on CPU wants multiples of 64), pictures of 56 pixels in 16 patches, and a
SentencePiece tokenizer trained on the spot, with byte fallback, so that any text has tokens.

    make_tiny_llava(Path("tiny"), family="1.6-mistral")     # tiny/, with its vision tower in tiny/clip
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

HIDDEN = 64
IMAGE_SIZE = 56
PATCH_SIZE = 14
GRID_PINPOINTS = ((IMAGE_SIZE, 2 * IMAGE_SIZE), (2 * IMAGE_SIZE, IMAGE_SIZE), (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))
VOCABULARY = 420
CHATML = ("<|im_start|>", "<|im_end|>")

_ANYRES: Mapping[str, Any] = {
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "spatial_unpad",
    "unfreeze_mm_vision_tower": True,
    "image_grid_pinpoints": [list(pair) for pair in GRID_PINPOINTS],
}

#: What sets upstream's published families apart: the language model, the tokenizer, and what config.json says.
FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llava-1.5": {"language": "llama", "tokenizer": "llama", "mm": {"image_aspect_ratio": "pad"}},
        "llava-llama-2": {
            "language": "llama",
            "tokenizer": "llama",
            "mm": {"image_aspect_ratio": "square", "mm_projector_type": "linear"},
        },
        "1.6-vicuna": {"language": "llama", "tokenizer": "llama", "mm": _ANYRES},
        "1.6-mistral": {"language": "mistral", "tokenizer": "llama", "mm": _ANYRES},
        "1.6-yi": {"language": "llama", "tokenizer": "chatml", "mm": _ANYRES},
    }
)


def make_tiny_llava(
    folder: Path, family: str = "llava-1.5", seed: int = 0, tokenizer: str | None = None, **changes: Any
) -> Path:
    """A whole LLaVA of one of FAMILIES in `folder`, its CLIP in `folder`/clip. Raises KeyError for another family.

    `tokenizer` (llama, chatml, bytes) and `changes` of config.json stand in place of the family's own.
    """
    import torch

    about = FAMILIES[family]
    make_tiny_clip(folder / "clip", seed)
    tokenizer = tokenizer or about["tokenizer"]
    _tokenizer_files(folder, tokenizer)
    config_class, model_class = llava_classes(about["language"])
    values = _language_values(about["language"], tokenizer) | vision_values(folder, about["mm"]) | changes
    config = config_class(**values)
    torch.manual_seed(seed)
    model = model_class(config)
    tower = model.get_vision_tower()
    if tower.is_loaded:  # the checkpoint carries the tower, which is then the one in clip/
        tower.vision_tower.load_state_dict(_clip_model(folder / "clip").state_dict())
    if hasattr(model.model, "image_newline"):
        torch.nn.init.normal_(model.model.image_newline, std=HIDDEN**-0.5)
    model.save_pretrained(folder)
    return folder


def make_tiny_language_model(
    folder: Path,
    tokenizer: str = "llama",
    language: str = "llama",
    seed: int = 0,
    kv_heads: int | None = None,
    tied: bool = False,
) -> Path:
    """A plain language model with its tokenizer. `tokenizer`: llama, chatml or bytes; `language`: llama or mistral.

    `kv_heads` and `tied` make the layouts of small models: TinyLlama groups its heads, SmolLM2 also ties its head.
    """
    import torch
    import transformers

    _tokenizer_files(folder, tokenizer)
    values = {**_language_values(language, tokenizer), "tie_word_embeddings": tied}
    if kv_heads is not None:
        values["num_key_value_heads"] = kv_heads
    torch.manual_seed(seed)
    if language == "mistral":
        model: Any = transformers.MistralForCausalLM(transformers.MistralConfig(**values))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values))
    model.save_pretrained(folder)
    return folder


def make_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP vision model with its image processor, as `openai/clip-vit-...` lays it out."""
    import torch
    import transformers

    torch.manual_seed(seed + 1)
    config = transformers.CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        projection_dim=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    transformers.CLIPVisionModel(config).save_pretrained(folder)
    processor = {
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": IMAGE_SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return folder


def _clip_model(folder: Path) -> Any:
    import transformers

    return transformers.CLIPVisionModel.from_pretrained(folder)


def llava_classes(language: str) -> tuple[Any, Any]:
    from llava.model import LlavaConfig, LlavaLlamaForCausalLM, LlavaMistralConfig, LlavaMistralForCausalLM

    return {
        "llama": (LlavaConfig, LlavaLlamaForCausalLM),
        "mistral": (LlavaMistralConfig, LlavaMistralForCausalLM),
    }[language]


def _language_values(language: str, tokenizer: str) -> dict[str, Any]:
    extra = {"num_key_value_heads": 2, "sliding_window": None} if language == "mistral" else {"num_key_value_heads": 4}
    ends = {"llama": {"bos": 1, "eos": 2, "pad": 0}, "chatml": {"bos": 1, "eos": VOCABULARY + 1, "pad": 0}}
    ids = ends.get(tokenizer, {"bos": 1, "eos": 2, "pad": 2})  # as SmolLM2: <|im_start|>, <|im_end|>
    return {
        "vocab_size": VOCABULARY + (len(CHATML) if tokenizer == "chatml" else 0),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        **{f"{name}_token_id": number for name, number in ids.items()},
        "tie_word_embeddings": False,
        **extra,
    }


def vision_values(folder: Path, mm: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mm_vision_tower": str(folder.resolve() / "clip"),
        "mm_hidden_size": HIDDEN,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        **mm,
    }


def _tokenizer_files(folder: Path, kind: str) -> None:
    """tokenizer.model and its config, as Llama checkpoints have them; `chatml`: no BOS, two special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "bytes":
        _byte_tokenizer_files(folder)
        return
    (folder / "tokenizer.model").write_bytes(_train_sentencepiece())
    config: dict[str, Any] = {
        "add_bos_token": kind != "chatml",
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": CHATML[1] if kind == "chatml" else "</s>",
        "legacy": False,
        "model_max_length": 2048,
        "pad_token": "<unk>",
        "padding_side": "right",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    if kind == "chatml":
        config["added_tokens_decoder"] = {
            str(VOCABULARY + index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for index, token in enumerate(CHATML)
        }
        config["additional_special_tokens"] = list(CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _byte_tokenizer_files(folder: Path) -> None:
    """tokenizer.json as SmolLM2 has it: byte-level BPE without tokenizer.model, ChatML's start token as its BOS."""
    import tokenizers

    special = ["<|endoftext|>", *CHATML]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(training_lines() * 4, trainer)
    made.save(str(folder / "tokenizer.json"))
    config = {
        "add_prefix_space": False,
        "bos_token": CHATML[0],
        "clean_up_tokenization_spaces": False,
        "eos_token": CHATML[1],
        "model_max_length": 8192,
        "pad_token": CHATML[1],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def training_lines() -> list[str]:
    """What tiny tokenizers are trained on.

    As in Llama's vocabulary, `USER` is a piece and ` USER` is not: upstream's offsets for later rounds count on it.
    """
    text = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. What is the color of the shape in this picture? "
        "ASSISTANT: The shape is a red circle. Is there a blue triangle? No. How many squares are there? Two. "
    )
    words = "Yes no red green blue black gray teal brown yellow circle rectangle triangle"
    return [text, *text.split(". "), words, *("(USER: /USER: .USER: >USER: " for _ in range(4))]


def _train_sentencepiece() -> bytes:
    """A BPE model of VOCABULARY pieces with byte fallback; the same bytes every time."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines() * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
