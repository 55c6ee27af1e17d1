"""`model_type` of the language models that upstream has no class for, and that get a LLaVA class here.

"qwen3" in OTHER_LANGUAGES        # model/language_models.py has the classes
"""

from __future__ import annotations

OTHER_LANGUAGES = ("qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "smollm3", "olmo2")
