"""The JSON files of models, checkpoints and runs: which type each has, and one reader for all of them.

Every such file may come from a stranger's download or from a disk that failed. It is read once, within the bounds of
`data_prep.records.json_text`, and compared with its type before anything looks into it. Fields that no type names are
left alone, for models of other makers carry many.

    config = read_document(folder / "config.json", Config)
    config["hidden_size"]          # a plain dict comes back; what is there has the type that Config says
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.records.json_text import conform, read_json, require_characters
from llava_finetune.saved.model_documents import (
    AdapterConfig,
    AddedTokens,
    Config,
    GenerationConfig,
    Preprocessor,
    Processor,
    SpecialTokens,
    Tokenizer,
    TokenizerConfig,
)
from llava_finetune.saved.run_documents import (
    Certificate,
    Index,
    Manifest,
    Result,
    RunManifest,
    Scores,
    Seal,
    TrainerState,
)

KINDS: dict[str, Any] = {
    "config.json": Config,
    "generation_config.json": GenerationConfig,
    "tokenizer_config.json": TokenizerConfig,
    "special_tokens_map.json": SpecialTokens,
    "added_tokens.json": AddedTokens,
    "tokenizer.json": Tokenizer,
    "preprocessor_config.json": Preprocessor,
    "processor_config.json": Processor,
    "adapter_config.json": AdapterConfig,
    "llava_finetune.json": Manifest,
    "checkpoint.json": Seal,
    "trainer_state.json": TrainerState,
    "model.safetensors.index.json": Index,
    "pytorch_model.bin.index.json": Index,
    "run.json": RunManifest,
    "result.json": Result,
    "certificate.json": Certificate,
}
"""The type of a file by its name; other names are read without one."""
SCORES = "scores-"
"""How the name of a file of Scores begins."""


def read_document(path: Path, kind: Any = None) -> Any:
    """The value of a JSON file, which is of `kind` (by default, as its name says).

    Raises UserError that names the file, the place in it, what is expected and what was found.
    """
    value = read_json(path)
    wanted = kind or KINDS.get(path.name) or (Scores if path.name.startswith(SCORES) else None)
    if wanted is not None:
        conform(value, wanted, path)
        require_characters(value, path)
    return value
