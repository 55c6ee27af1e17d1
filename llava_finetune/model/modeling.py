"""Upstream's model classes with a loss that is computed only where something is taught.

A VQA record supervises about five of 640 tokens. The language-model head and the loss run on those alone: the same
loss, without the full logits. The classes keep upstream's names, so that what they save is upstream's layout.

    model = model_class("llava_llama").from_pretrained(folder)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.data.feature_cache import FeatureCache
from llava_finetune.data.layout import Layout
from llava_finetune.errors import UserError
from llava_finetune.kernels.head_loss import token_losses
from llava_finetune.model.forward_parts import ForwardParts
from llava_finetune.model.language_models import CappedHead, llava_class
from llava_finetune.model.splice import embed, run_layers
from llava_finetune.planning.activations import LOSS_CHUNK
from llava_finetune.saved.language_types import language_of

FAMILIES = {
    "llama": "LlavaLlamaForCausalLM",
    "llava": "LlavaLlamaForCausalLM",
    "llava_llama": "LlavaLlamaForCausalLM",
    "mistral": "LlavaMistralForCausalLM",
    "llava_mistral": "LlavaMistralForCausalLM",
}


def row_losses(losses: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Each row's summed loss and number of taught tokens, B x 2, from the losses of taught tokens and their rows."""
    each = torch.stack([losses, torch.ones_like(losses)], 1)
    return losses.new_zeros(num_rows, 2).index_add(0, rows, each)


def newline_anchor(model: Any) -> torch.Tensor | float:
    """Zero, with 1.6's `image_newline` in its graph.

    A batch of text alone does not use it. Under ZeRO-3 every rank has to gather it in the same step and hand in a
    gradient, else the ranks' collectives no longer match.
    """
    newline = getattr(model.get_model(), "image_newline", None)
    return 0.0 if newline is None else newline.float().sum() * 0.0


@dataclass(frozen=True)
class ForwardSettings:
    """How a model goes forward, at the same loss. `loss_chunk`: taught tokens whose logits exist at one time; 0: all.

    `keep_tokens`: the result holds `token_losses` (M) and `hidden` (M x H) of the taught tokens, row by row.

    `parts` is for ranks, which cannot go back a step when memory runs out; `cache` keeps a frozen tower's features.
    """

    loss_chunk: int = LOSS_CHUNK
    parts: ForwardParts | None = None
    cache: FeatureCache | None = None
    keep_tokens: bool = False

    def add_tokens(self, output: Any, losses: torch.Tensor, hidden: torch.Tensor) -> Any:
        """The output, with losses and hidden states of taught tokens where they are wanted."""
        if self.keep_tokens:
            output["token_losses"], output["hidden"] = losses, hidden
        return output


class SupervisedHead:
    """Mixed in before an upstream class: with labels, the head runs on supervised positions and no logits are kept."""

    forward_settings = ForwardSettings()

    def go_forward_by(self, settings: ForwardSettings) -> None:
        """Go forward by these settings from now on."""
        self.forward_settings = settings

    @property
    def answer_head(self: Any) -> Any:
        """What makes logits of hidden states: the head, with the bound that Gemma-2 sets to them."""
        bound = getattr(self.config, "final_logit_softcapping", None)
        return self.lm_head if bound is None else CappedHead(self.lm_head, bound)

    def post_init(self: Any) -> None:
        """As transformers'; a tower that was not tuned is loaded from its own folder, whatever the checkpoint holds."""
        super().post_init()  # type: ignore[misc]
        if not getattr(self.config, "unfreeze_mm_vision_tower", False):
            self._keys_to_ignore_on_load_unexpected.add(r"model\.vision_tower\.")

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        images: Any = None,
        image_sizes: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> Any:
        """As upstream's forward; with `labels` (int64, B x T) or a `layout` the result holds the loss and no logits.

        In evaluation mode the result holds `row_losses` too: of each row, or of each record of a layout.
        """
        if layout is not None:
            return self.learn_unpadded(layout, images, image_sizes)
        if labels is None:
            return super().forward(  # type: ignore[misc]
                input_ids=input_ids,
                attention_mask=attention_mask,
                images=images,
                image_sizes=image_sizes,
                inputs_embeds=inputs_embeds,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )
        anchor = newline_anchor(self)
        if inputs_embeds is None:
            _, position_ids, attention_mask, _, inputs_embeds, labels = self.prepare_inputs_labels_for_multimodal(
                input_ids, position_ids, attention_mask, None, labels, images, image_sizes
            )
        hidden = self.get_model()(
            input_ids=input_ids if inputs_embeds is None else None,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        targets = labels[:, 1:]
        taught = targets != IGNORE_INDEX
        hidden = hidden[:, :-1][taught]
        return self.loss_of(
            hidden, targets[taught], anchor, lambda losses: row_losses(losses, taught.nonzero()[:, 0], len(taught))
        )

    def learn_unpadded(self: Any, layout: Layout, images: Any, image_sizes: Any) -> Any:
        """The loss of a batch without padding."""
        anchor = newline_anchor(self)
        layers = functools.partial(run_layers, self)
        embeddings = embed(self, layout, images, image_sizes, self.forward_settings.cache)
        parts = self.forward_settings.parts
        hidden = parts.run(layers, embeddings, layout) if parts else layers(embeddings, layout)
        hidden = hidden.index_select(0, layout.taught)
        return self.loss_of(
            hidden, layout.targets, anchor, lambda losses: row_losses(losses, layout.owners, layout.num_records)
        )

    def loss_of(
        self: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        anchor: torch.Tensor | float,
        by_row: Callable[[torch.Tensor], torch.Tensor],
    ) -> Any:
        """The output for the hidden states of taught tokens; in evaluation mode with their losses summed `by_row`."""
        losses = token_losses(hidden, targets, self.answer_head, self.forward_settings.loss_chunk)
        output = CausalLMOutputWithPast(loss=losses.mean() + anchor)
        if not self.training:
            output["row_losses"] = by_row(losses)
        return self.forward_settings.add_tokens(output, losses, hidden)


@functools.cache
def model_class(model_type: str) -> Any:
    """The training class for a config's `model_type`; unknown families are refused with what to do."""
    import llava.model as upstream

    if (language := language_of(model_type)) is not None:
        parent = llava_class(language)
        return type(parent.__name__, (SupervisedHead, parent), {"__module__": __name__, "__doc__": parent.__doc__})
    if model_type not in FAMILIES:
        raise UserError(
            f'unknown model family "{model_type}"; known: {", ".join(sorted(FAMILIES))}. '
            "A llava-hf checkpoint is converted with: llava-finetune import FOLDER OUTPUT"
        )
    name = FAMILIES[model_type]
    parent = getattr(upstream, name)
    return type(name, (SupervisedHead, parent), {"__module__": __name__, "__doc__": parent.__doc__})
