"""What a model folder is, for patched upstream: the answers are those of `llava_finetune.saved.folders`.

describe("runs/prompt-tuned", None).kind  ->  "model"
"""

from llava_finetune.saved.folders import describe, refuse_mpt
from llava_finetune.saved.model_files import ADAPTER

__all__ = ["ADAPTER", "describe", "refuse_mpt"]
