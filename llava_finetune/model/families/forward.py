"""transformers' class of a family with a loss that is computed only where something is taught.

The class keeps its name, so that what it saves is transformers' own layout. Without labels it is transformers' own.

    model = model_class(Idefics3, "smolvlm").from_pretrained(folder)
"""

from __future__ import annotations

import functools
from typing import Any

import transformers
from transformers.modeling_outputs import CausalLMOutputWithPast

from data_prep.records.marks import IGNORE_INDEX
from llava_finetune.kernels.head_loss import token_losses
from llava_finetune.model.families.family import Family
from llava_finetune.model.modeling import ForwardSettings, row_losses


class TaughtHead:
    """Mixed in before a family's class: with labels, the head runs on taught positions and no logits are kept."""

    family: type[Family]
    forward_settings = ForwardSettings()

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: its tensors have transformers' own names, and are renamed on their way from and to a file."""
        return False

    def go_forward_by(self, settings: ForwardSettings) -> None:
        """Go forward by these settings from now on."""
        self.forward_settings = settings

    def taught_forward(self: Any, labels: Any, inputs: dict[str, Any]) -> Any:
        """The loss on taught tokens (labels int64, B x T); in evaluation mode `row_losses` too, of each row."""
        if self.training and self.family.is_blind(inputs):
            # Every rank hands in a gradient for what pictures go through, though this rank's batch has none. Made after
            # the embeddings and added to them, as pictures are: gradients then come in the same order on every rank,
            # and ZeRO-2 adds them up in the order in which they come.
            embeds = self.get_input_embeddings()(inputs["input_ids"])
            anchor = self.family.anchor(self).to(embeds)
            inputs = {**inputs, "input_ids": None, "inputs_embeds": embeds + anchor}
        hidden = self.model(**{**inputs, "use_cache": False}).last_hidden_state
        targets = labels[:, 1:]
        taught = targets != IGNORE_INDEX
        losses = token_losses(hidden[:, :-1][taught], targets[taught], self.lm_head, self.forward_settings.loss_chunk)
        output = CausalLMOutputWithPast(loss=losses.mean())
        if not self.training:
            output["row_losses"] = row_losses(losses, taught.nonzero()[:, 0], len(taught))
        return output


@functools.cache
def model_class(family: type[Family], model_type: str) -> Any:
    """The class that trains a family's models of this `model_type`."""
    parent = getattr(transformers, family.types[model_type])

    @functools.wraps(parent.forward)
    def forward(self: Any, *arguments: Any, labels: Any = None, **inputs: Any) -> Any:
        if labels is None:
            return parent.forward(self, *arguments, **inputs)
        return self.taught_forward(labels, inputs)

    contents = {"__module__": __name__, "__doc__": parent.__doc__, "family": family, "forward": forward}
    return type(parent.__name__, (TaughtHead, parent), contents)
