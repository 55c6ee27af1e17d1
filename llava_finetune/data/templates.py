"""Conversation templates by name: upstream's registry, plus the families that upstream never had.

conversation("vicuna_v1").get_prompt()
"""

from __future__ import annotations

from typing import Any

from llava_finetune.data.own_template import NAME as OWN
from llava_finetune.data.own_template import end_of
from llava_finetune.errors import UserError

#: Templates of ours: upstream's trainer would mask them as v0, role names and all.
UPSTREAM_LACKS = frozenset({"llama_3"})


def _registry() -> dict[str, Any]:
    from llava.conversation import Conversation, SeparatorStyle, conv_templates

    if "llama_3" not in conv_templates:
        # Meta's header/eot format, as in the published Llama-3 chat template; one template per tokenizer family.
        conv_templates["llama_3"] = Conversation(
            system="<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant.",
            roles=(
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            version="llama_3",
            messages=(),
            offset=0,
            sep_style=SeparatorStyle.MPT,
            sep="<|eot_id|>",
        )
    return conv_templates  # type: ignore[no-any-return]


def template_names() -> list[str]:
    """All names that `--version` accepts, sorted."""
    return sorted(_registry())


def conversation(name: str) -> Any:
    """A fresh copy of the named template, without messages. An unknown name is an error that lists the known ones."""
    registry = _registry()
    if name not in registry:
        known = ", ".join(sorted({*registry, OWN}))
        raise UserError(f'unknown conversation template "{name}"; known: {known}')
    template = registry[name].copy()
    template.messages = []
    return template


def end_text(name: str, tokenizer: Any = None) -> str:
    """The text that ends an answer in this template, by its tokenizer in its own: what generation stops at."""
    if name == OWN:
        return end_of(tokenizer)
    template = conversation(name)
    style = template.sep_style.name
    return str(template.sep2 if style in ("TWO", "LLAMA_2") else template.sep)


def check_fits(name: str, tokenizer: Any) -> None:
    """Refuse a template whose end of turn the tokenizer does not hold as one token.

    Plain and v0 templates end turns in ordinary text; they fit any tokenizer.
    """
    end = end_text(name, tokenizer)
    if name != OWN and (conversation(name).sep_style.name in ("PLAIN", "SINGLE") or not end):
        return
    ids = tokenizer(end, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise UserError(
            f'the conversation template "{name}" ends answers with {end!r}, which this tokenizer splits into '
            f"{len(ids)} tokens; choose a template that fits it with --version"
        )
