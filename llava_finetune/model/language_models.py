"""LLaVA on language models that upstream never had: upstream's parts mixed into transformers' classes, one for all.

Each gets a config type of its own, so that what is saved loads as what it is: Qwen3ForCausalLM becomes
LlavaQwen3ForCausalLM, with `model_type: llava_qwen3` and upstream's mm_* values beside Qwen3's own.

    llava_class("qwen3").from_pretrained("Qwen/Qwen3-0.6B")
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers

from llava_finetune.saved.language_types import PREFIXES


class CappedHead(torch.nn.Module):
    """Gemma-2's head: its logits are bent to stay below a bound, which its loss and its answers see."""

    def __init__(self, head: torch.nn.Module, bound: float) -> None:
        super().__init__()
        self.head, self.bound = head, bound

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, N x V, of hidden states, N x H."""
        return torch.tanh(self.head(hidden) / self.bound) * self.bound


def _named(prefix: str, kind: str) -> Any:
    text = f"{prefix}Text{kind}"  # Gemma-3's text half is called so where the whole has another class
    return getattr(transformers, text, None) or getattr(transformers, f"{prefix}{kind}")


class _SeesPictures:
    """What a language model needs to take `images` and `image_sizes`; it stands before the model among the parents."""

    def get_model(self: Any) -> Any:
        return self.model

    def forward(self: Any, input_ids: Any = None, images: Any = None, image_sizes: Any = None, **kwargs: Any) -> Any:
        """As the language model's, with pictures put in the places of -200."""
        if kwargs.get("inputs_embeds") is None:
            names = ("position_ids", "attention_mask", "past_key_values", "labels")
            position, mask, cache, labels = (kwargs.pop(name, None) for name in names)
            made = self.prepare_inputs_labels_for_multimodal(
                input_ids, position, mask, cache, labels, images, image_sizes
            )
            input_ids, kwargs["inputs_embeds"] = made[0], made[4]
            kwargs |= dict(zip(names, (*made[1:4], made[5]), strict=True))
        return super().forward(input_ids=input_ids, **kwargs)  # type: ignore[misc]

    @torch.no_grad()
    def generate(self: Any, inputs: Any = None, images: Any = None, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Ids of the answers, without those of the prompts."""
        position, mask = kwargs.pop("position_ids", None), kwargs.pop("attention_mask", None)
        if images is None:
            embeds = self.get_model().embed_tokens(inputs)
        else:
            _, position, mask, _, embeds, _ = self.prepare_inputs_labels_for_multimodal(
                inputs, position, mask, None, None, images, image_sizes
            )
        return super().generate(position_ids=position, attention_mask=mask, inputs_embeds=embeds, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(self: Any, input_ids: Any, inputs_embeds: Any = None, **kwargs: Any) -> Any:
        """As the language model's; transformers reads off this signature what a prompt may be."""
        pictures = {name: kwargs.pop(name, None) for name in ("images", "image_sizes")}
        made = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        return {**made, **{name: value for name, value in pictures.items() if value is not None}}


@functools.cache
def llava_class(language: str) -> Any:
    """The LLaVA class on a language model of PREFIXES, registered with transformers under `llava_` and its type."""
    from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel

    prefix = PREFIXES[language]
    config_parent, model_parent = _named(prefix, "Config"), _named(prefix, "Model")
    parent = getattr(transformers, f"{prefix}ForCausalLM")
    named = {"model_type": f"llava_{language}", "__module__": __name__}
    config: Any = type(f"Llava{prefix}Config", (config_parent,), named)

    class Model(LlavaMetaModel, model_parent):  # type: ignore[misc, valid-type]
        config_class = config

    class CausalLM(_SeesPictures, parent, LlavaMetaForCausalLM):  # type: ignore[misc, valid-type]
        config_class = config

        def __init__(self, config: Any) -> None:
            super(parent, self).__init__(config)  # the parent would make a language model without pictures
            self.model = Model(config)
            self.vocab_size = config.vocab_size
            self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.post_init()

    for made, kind in ((Model, "Model"), (CausalLM, "ForCausalLM")):
        made.__name__ = made.__qualname__ = f"Llava{prefix}{kind}"
        made.__module__ = __name__
    transformers.AutoConfig.register(config.model_type, config)
    transformers.AutoModelForCausalLM.register(config, CausalLM)
    return CausalLM
