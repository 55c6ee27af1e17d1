"""For an engine's environment: the operators that torchvision names while it is imported, where its own do not load.

Beside a torch for CPUs the package index has no torchvision of the same build: its compiled operators do not load, and
the import ends at the first one that it names (`nms`). No LLaVA calls them. scripts/engines.sh copies this file into an
environment, and a .pth file imports it; nothing happens until torchvision is imported, and a call would still fail.
"""

import importlib.util
import sys
from pathlib import Path

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
KEPT: list[object] = []
"""A library's operators live as long as it does."""


class BeforeTorchvision:
    """An import hook that declares the operators once, in front of torchvision's own import."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Never the one that finds."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()


def declare() -> None:
    """Declare them unless torchvision's compiled file loads."""
    import torch

    found = importlib.util.find_spec("torchvision")
    compiled = sorted(Path(found.origin).parent.glob("_C*.so")) if found and found.origin else []
    try:
        for file in compiled:
            torch.ops.load_library(str(file))
    except OSError:
        compiled = []
    if not compiled:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            library.define(schema)
        KEPT.append(library)


sys.meta_path.insert(0, BeforeTorchvision())
