"""Tiny random models of transformers' own families in their published layout, built by script: config, weights,
tokenizer with the family's real tokens, picture processor, chat template.

    make_tiny_family(Path("tiny"), "smolvlm")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = 64
SIDE = 56
WORDS = (
    "A chat between a curious user and an assistant. What is the color of the shape in this picture? Assistant: The "
    "shape is a red circle. Is there a blue triangle? No. How many squares are there? Two. User: Yes no green black"
)
GRID = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
TURNS = (
    "{% for message in messages %}{{ message.role | capitalize }}:{{ '' if message.content[0].type == 'image' else ' ' "
    "}}{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
ONEVISION_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ '\n' + part.text }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT: Mapping[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION: Mapping[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 14,
}


def make_tiny_family(folder: Path, name: str, seed: int = 0) -> Path:
    """A whole model of a family in `folder`. Raises KeyError for a family that is not in BUILDERS."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model, tokenizer, pictures, processor, template = BUILDERS[name]()
    torch.manual_seed(seed)
    model = model()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    if processor:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    if template:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder


def tokenizer_of(specials: Sequence[str], bos: str, eos: str, pad: str, adds_bos: bool) -> Any:
    """A byte-level BPE trained on WORDS, with these special tokens."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(dict.fromkeys([pad, bos, eos])), initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([WORDS] * 6, trainer)
    if adds_bos:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made.token_to_id(bos))]
        )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos, pad_token=pad)
    fast.add_special_tokens({"additional_special_tokens": list(specials)})
    return fast


def _text_values(kind: str, tokenizer: Any) -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {"model_type": kind, "vocab_size": len(tokenizer), **TEXT, **ids}


def _idefics3() -> tuple[Any, Any, Any, Any, str]:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil

    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *GRID)
    tokenizer = tokenizer_of(marks, "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", adds_bos=True)
    config = Idefics3Config(
        text_config=_text_values("llama", tokenizer),
        vision_config=dict(VISION),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return (
        lambda: Idefics3ForConditionalGeneration(config),
        tokenizer,
        pictures,
        {"processor_class": "Idefics3Processor", "image_seq_len": 4},
        "<|begin_of_text|>" + TURNS,
    )


def _smolvlm() -> tuple[Any, Any, Any, Any, str]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil

    marks = ("<|im_end|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *GRID)
    tokenizer = tokenizer_of(marks, "<|im_start|>", "<end_of_utterance>", "<|pad|>", adds_bos=False)
    config = SmolVLMConfig(
        text_config=_text_values("llama", tokenizer),
        vision_config=dict(VISION),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return (
        lambda: SmolVLMForConditionalGeneration(config),
        tokenizer,
        pictures,
        {"processor_class": "SmolVLMProcessor", "image_seq_len": 4},
        "<|im_start|>" + TURNS,
    )


def _idefics2() -> tuple[Any, Any, Any, Any, str]:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2ImageProcessorPil

    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    tokenizer = tokenizer_of(marks, "<s>", "</s>", "<unk>", adds_bos=True)
    resampler = {
        "hidden_size": HIDDEN, "resampler_n_latents": 8, "resampler_depth": 2, "resampler_n_heads": 4,
        "resampler_head_dim": 16, "num_key_value_heads": 2,
    }  # fmt: skip
    config = Idefics2Config(
        text_config={**_text_values("mistral", tokenizer), "sliding_window": None},
        vision_config=dict(VISION),
        perceiver_config=resampler,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    pictures = Idefics2ImageProcessorPil(size={"shortest_edge": SIDE // 2, "longest_edge": SIDE})
    processor = {"processor_class": "Idefics2Processor", "image_seq_len": 8}
    return lambda: Idefics2ForConditionalGeneration(config), tokenizer, pictures, processor, TURNS


def _llava_onevision() -> tuple[Any, Any, Any, Any, str]:
    import transformers

    tokenizer = tokenizer_of(("<image>", "<video>"), "<|im_start|>", "<|im_end|>", "<|endoftext|>", adds_bos=False)
    pins = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [SIDE, 3 * SIDE]]
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}
    config = transformers.LlavaOnevisionConfig(
        text_config=_text_values("qwen2", tokenizer),
        vision_config=tower,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
    )
    pictures = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pins
    )
    processor = {
        "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16, "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }  # fmt: skip
    return (
        lambda: transformers.LlavaOnevisionForConditionalGeneration(config),
        tokenizer,
        pictures,
        processor,
        ONEVISION_TURNS,
    )


def _idefics() -> tuple[Any, Any, Any, Any, str]:
    import transformers

    tokenizer = tokenizer_of((), "<s>", "</s>", "<unk>", adds_bos=True)
    rows = len(tokenizer)
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    text = {**_text_values("idefics", tokenizer), "vocab_size": rows, "num_hidden_layers": 4}
    for name in ("model_type", "num_key_value_heads", "max_position_embeddings"):
        text.pop(name)
    config = transformers.IdeficsConfig(
        **text,
        additional_vocab_size=len(marks), cross_layer_interval=2, qk_layer_norms=True, use_resampler=True,
        alpha_initializer="ones", freeze_text_layers=True, freeze_vision_layers=True,
        vision_config={
            "embed_dim": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": SIDE, "patch_size": 14,
        },
        perceiver_config={
            "use_resampler": True, "resampler_n_latents": 8, "resampler_depth": 2, "resampler_n_heads": 4,
            "resampler_head_dim": 16, "qk_layer_norms_perceiver": True,
        },
    )  # fmt: skip
    pictures = transformers.IdeficsImageProcessorPil(image_size=SIDE)
    return lambda: transformers.IdeficsForVisionText2Text(config), tokenizer, pictures, None, ""


BUILDERS: Mapping[str, Any] = {
    "idefics": _idefics,
    "idefics2": _idefics2,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "llava_onevision": _llava_onevision,
}
