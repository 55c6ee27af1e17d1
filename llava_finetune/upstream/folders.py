"""What a model folder is, for patched upstream: the answers are those of `llava_finetune.saved.folders`.

describe("runs/prompt-tuned", None).kind  ->  "model"
"""

from llava_finetune.saved.folders import ADAPTER, describe, refuse_mpt

__all__ = ["ADAPTER", "describe", "refuse_mpt"]
