"""What the calls of the page share: the workspace, its table, what is known about its rows, and who may ask.

studio = Studio(Workspace.open(Path("chess")))
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from llava_finetune.serve.guards import Access
from llava_finetune.studio.findings import Findings
from llava_finetune.studio.table import Store
from llava_finetune.studio.workspace import Workspace

DECODED_AT_ONCE = 2
"""Pictures that are decoded at the same time: each may hold as many pixels as training opens in one."""


@dataclass
class Studio:
    """One workspace, open in any number of pages."""

    space: Workspace
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        self.store = Store(self.space)
        self.findings = Findings(self.space)
        self.decoding = asyncio.Semaphore(DECODED_AT_ONCE)
