"""The conversation template of a model for upstream's tools: the saved one, else the tokenizer's and family's.

Behind the seam in run_llava, cli and model_vqa, which guessed from the folder's name.
"""

from __future__ import annotations

import logging
from typing import Any

from llava_finetune.data.templates import template_names
from llava_finetune.errors import UserError
from llava_finetune.model.building import template_of

logger = logging.getLogger(__name__)


def choose_template(asked: str | None, model_path: str, model: Any, tokenizer: Any) -> str:
    """The asked template, else the model's own. Raises UserError for a name that is no template."""
    if asked is not None and asked not in template_names():
        raise UserError(f"--conv-mode {asked}: no such template; known: {', '.join(template_names())}")
    own = template_of(None, model_path, model.config, tokenizer)
    if asked is not None and asked != own:
        logger.warning("--conv-mode %s is used; the model's own template is %s", asked, own)
    return asked or own
