"""Tiny language models that upstream has no class for, built by script: config, byte BPE tokenizer, chat template.

The templates are written here, and write what the published ones write for a system-less conversation.

    make_tiny_language("qwen3", Path("tiny"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import HIDDEN, VOCABULARY, llava_classes, make_tiny_clip, training_lines, vision_values

CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}"
    "{%- if thinks and m.role == 'assistant' and loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if thinks and enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
SYSTEM = "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
LLAMA_3 = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
PHI_3 = (
    "{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"
)
GEMMA = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}"
    "{{- (m.content | trim) + '<end_of_turn>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"
)

OLMO_2 = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' + m.content -}}"
    "{%- if m.role == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- if m.role != 'assistant' or not loop.last -%}{{- '\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class About:
    """A language model: transformers' class, what its tokenizer holds, and what its config says.

    `adds_bos`: its tokenizer writes the BOS, where it has one; `cut`: how text is cut before merging, where it is not
    GPT-2's way.
    """

    model: str
    special: tuple[str, ...]
    template: str
    end: str
    pad: str
    eos: str
    bos: str | None = None
    adds_bos: bool = True
    cut: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


LLAMA_3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_CUT = LLAMA_3_CUT.replace("{1,3}", "")
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ABOUT: Mapping[str, About] = {
    "qwen2": About("Qwen2", _CHATML_TOKENS, SYSTEM + CHATML, "<|im_end|>", "<|endoftext|>", "<|im_end|>",
                   cut=QWEN_CUT, values={"tie_word_embeddings": True}),
    "qwen3": About("Qwen3", (*_CHATML_TOKENS, "<think>", "</think>"), "{%- set thinks = true -%}" + CHATML,
                   "<|im_end|>", "<|endoftext|>", "<|im_end|>", cut=QWEN_CUT, values={"head_dim": 32}),
    "llama3": About("Llama", ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                              "<|eot_id|>", "<|finetune_right_pad_id|>"),
                    LLAMA_3, "<|eot_id|>", "<|finetune_right_pad_id|>", "<|eot_id|>", "<|begin_of_text|>",
                    cut=LLAMA_3_CUT,
                    values={"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0,
                                                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                "original_max_position_embeddings": 64}}),
    "phi3": About("Phi3", ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), PHI_3, "<|end|>",
                  "<|endoftext|>", "<|endoftext|>",  # Phi-4-mini turns three quarters of each head alone
                  values={"sliding_window": 24, "partial_rotary_factor": 0.75}),
    "gemma2": About("Gemma2", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), GEMMA, "<end_of_turn>",
                    "<pad>", "<eos>", "<bos>",
                    values={"head_dim": 32, "sliding_window": 24, "query_pre_attn_scalar": 32,
                            "initializer_range": 0.3}),
    "gemma3_text": About("Gemma3", ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"), GEMMA,
                         "<end_of_turn>", "<pad>", "<eos>", "<bos>",
                         values={"head_dim": 32, "sliding_window": 24, "query_pre_attn_scalar": 32,
                                 "layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.1}),
    # Its layers turn no channels from the fourth on, and its pad token is the one that ends an answer.
    "smollm3": About("SmolLM3", _CHATML_TOKENS, CHATML, "<|im_end|>", "<|im_end|>", "<|im_end|>", cut=LLAMA_3_CUT,
                     values={"num_hidden_layers": 4}),
    # BOS, end of an answer and end of a text are one token, which the template writes; its marks are plain text.
    "olmo2": About("Olmo2", ("<|endoftext|>", "<|pad|>"), OLMO_2, "<|endoftext|>", "<|pad|>", "<|endoftext|>",
                   "<|endoftext|>", adds_bos=False),
}  # fmt: skip


def make_tiny_language(name: str, folder: Path, seed: int = 0) -> Path:
    """A model of ABOUT in `folder`."""
    import torch
    import transformers

    about = ABOUT[name]
    tokenizer = make_tokenizer(about, folder)
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token)
           for kind, token in (("bos", about.bos), ("eos", about.eos), ("pad", about.pad)) if token}  # fmt: skip
    values = {
        "vocab_size": len(tokenizer) + 5, "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": None, **ids, **about.values,
    }  # fmt: skip
    text = f"{about.model}TextConfig"  # Gemma-3's text half is called so
    config = getattr(transformers, text if hasattr(transformers, text) else f"{about.model}Config")(**values)
    torch.manual_seed(seed)
    getattr(transformers, f"{about.model}ForCausalLM")(config).save_pretrained(folder)
    return folder


def make_tokenizer(about: About, folder: Path) -> Any:
    """A byte-level BPE with its special tokens and chat template; one with a BOS writes it before every text."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=about.cut == LLAMA_3_CUT))
    if about.cut == QWEN_CUT:
        made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=about.cut is None)
    if about.cut is not None:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(about.cut), "isolated")
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, made.pre_tokenizer])
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(about.special), show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(training_lines(), trainer)
    if about.bos and about.adds_bos:
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{about.bos} $A", special_tokens=[(about.bos, made.token_to_id(about.bos))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "eos_token": about.eos, "pad_token": about.pad, **({"bos_token": about.bos} if about.bos else {}),
        "model_max_length": 512,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(about.template, encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)


def make_tiny_language_llava(name: str, folder: Path, seed: int = 0) -> Path:
    """A whole LLaVA on a model of ABOUT in `folder`, its CLIP in `folder`/clip; of upstream's own classes on Llama."""
    import torch
    import transformers

    from llava_finetune.model.language_models import llava_class

    make_tiny_clip(folder / "clip", seed)
    values = transformers.AutoConfig.from_pretrained(make_tiny_language(name, folder, seed)).to_dict()
    del values["model_type"]
    model_class = llava_classes("llama")[1] if name == "llama3" else llava_class(name)
    torch.manual_seed(seed)
    config = model_class.config_class(**values, **vision_values(folder, {"image_aspect_ratio": "pad"}))
    model_class(config).save_pretrained(folder)
    return folder
