"""Publish a model on the Hugging Face hub: an adapter, a merged, an exported or a GGUF folder, with its card.

    llava-finetune push runs/mine OWNER/NAME

Private unless --public is given. What is sent is what loading needs, the card and the certificate: no checkpoint of the
optimizer, no log, no predictions, and no report, which holds pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.publishing import publish, require_login, require_name
from llava_finetune.errors import UserError
from llava_finetune.flags import command_parser
from llava_finetune.saved.model_files import (
    ADAPTER_CONFIG,
    BESIDE_ADAPTER,
    MANIFEST,
    PROJECTOR_WEIGHTS,
    TOKENIZER_FILES,
)
from llava_finetune.saved.sound import require_sound

EXAMPLES = """examples:
  llava-finetune push runs/mine OWNER/NAME             the adapter of a run
  llava-finetune push merged OWNER/NAME --public       a merged model that everybody may load
  llava-finetune push exported OWNER/NAME --dry-run    only list what would be sent

Log in first: hf auth login, or set HF_TOKEN. After a break the same command goes on.
exit codes: 0 sent, 1 failed, 2 wrong use"""
SENT = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "Modelfile",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "certificate.json",
    MANIFEST,
    "*config.json",
    "adapter_model.*",
    BESIDE_ADAPTER,
    PROJECTOR_WEIGHTS,
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "tokenizer*",
    *TOKENIZER_FILES,
    "chat_template*",
)
"""Names of files that a model consists of."""
WEIGHTS = (".safetensors", ".gguf", ".bin")


def files_of(folder: Path) -> list[Path]:
    """The files of a model folder that are sent: its own, and those of a tower that lies in it.

    Raises UserError for a folder without weights, and for one that holds a damaged file or half of an adapter.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a model: an adapter, a merged, an exported or a GGUF folder")
    places = [folder, *sorted(one for one in folder.iterdir() if one.is_dir() and _is_part(one))]
    found = {path for place in places for name in SENT for path in place.glob(name) if path.is_file()}
    if not any(path.suffix in WEIGHTS for path in found):
        raise UserError(f"{folder}: no weights in it (*.safetensors, *.bin, *.gguf): nothing to publish")
    _require_whole(folder, places)
    return sorted(found)


def _require_whole(folder: Path, places: Sequence[Path]) -> None:
    """Raise UserError for what nobody could load: a damaged file, or half of an adapter."""
    for place in places:
        require_sound(place)
    halves = ((folder / ADAPTER_CONFIG).is_file(), any(folder.glob("adapter_model.*")))
    if any(halves) and not all(halves):
        absent = "adapter_model.safetensors" if halves[0] else ADAPTER_CONFIG
        raise UserError(f"{folder}: an adapter without {absent}: nobody could load it; copy the folder again")


def _is_part(folder: Path) -> bool:
    """Whether a folder inside a model is a part of it, such as a tower, and not a checkpoint of a training."""
    return (folder / "config.json").is_file() and not folder.name.startswith(("checkpoint-", "."))


def main(argv: Sequence[str] | None = None) -> int:
    """List what belongs to the model, and send it."""
    parser = command_parser(
        "push",
        "Publish a model on the Hugging Face hub.",
        EXAMPLES,
    )
    parser.add_argument("model", type=Path, help="folder of an adapter, a merged, an exported or a GGUF model")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the model on the hub")
    parser.add_argument("--public", action="store_true", help="let everybody load it (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be sent")
    options = parser.parse_args(argv)
    files = files_of(options.model)
    require_name(options.repository)
    for path in files:
        print(f"  {path.relative_to(options.model)}  {path.stat().st_size / 1e6:,.1f} MB")
    if not (options.model / "README.md").is_file():
        print(
            f"{options.model} has no README.md: the hub will show no card. Training, llava-finetune merge and export "
            "write one beside the model; beside another folder write it yourself"
        )
    if options.dry_run:
        return 0
    require_login()
    names = [path.relative_to(options.model).as_posix() for path in files]
    url = publish(options.repository, options.model, "model", public=options.public, files=names)
    print(f"{url}: {'public' if options.public else 'private'}")
    return 0
