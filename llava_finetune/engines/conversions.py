"""The forms that engines read, made where they are not there yet: merged, exported and GGUF folders of one model.

Conversions("runs/mine", Path("runs/mine-certify")).exported()
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llava_finetune.errors import UserError
from llava_finetune.model.loaded import kind_of
from llava_finetune.saved.manifest import read_manifest, weights_sha256


@dataclass(frozen=True)
class Conversions:
    """`model` as given (an adapter, or a whole model); what is made of it stands in `work` and is used again.

    `gguf_type`: the type of the GGUF weights.
    """

    model: str
    work: Path
    gguf_type: str = "f16"

    def dtype(self) -> str:
        """The dtype that the model was trained in."""
        return str(read_manifest(self.model).get("dtype") or "bfloat16")

    def merged(self) -> Path:
        """The model as one folder: itself, or its adapter merged."""
        if kind_of(self.model) == "model":
            return Path(self.model)
        from llava_finetune.merge.command import merge

        folder = self.work / "merged"
        if not self._is_there(folder, "merged_sha256", weights_sha256(self.model)):
            merge(self.model, folder)
        return folder

    def exported(self) -> Path:
        """llava-hf's layout of the merged model."""
        from llava_finetune.convert.export import export

        folder, source = self.work / "exported", self.merged()
        if not self._is_there(folder, "base_sha256", weights_sha256(source)):
            export(str(source), folder)
        return folder

    def gguf(self) -> Path:
        """The GGUF files of the merged model."""
        from llava_finetune.convert.gguf.export import export_gguf

        folder, source = self.work / f"gguf-{self.gguf_type}", self.merged()
        if not self._is_there(folder, "base_sha256", weights_sha256(source)):
            export_gguf(str(source), folder, file_type=self.gguf_type)
        return folder

    def _is_there(self, folder: Path, key: str, expected: str | None) -> bool:
        """Whether a folder was made of this very model. Raises UserError for one that was made of another."""
        if not folder.is_dir():
            return False
        if read_manifest(folder).get(key) != expected:
            raise UserError(
                f"{folder}: made of another model, or of this one before it changed, or by an earlier version; "
                "remove it, or give another --work"
            )
        return True
