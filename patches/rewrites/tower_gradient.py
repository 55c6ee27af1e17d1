"""The tower computes gradients when its parameters ask for them."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#341, #1690, #1734 (problems 24, 35)",
    why="`@torch.no_grad` on `forward` makes a tower that was set trainable, or given adapters, learn nothing "
    "in silence.",
    not_outside="A decorator cannot be taken off from outside.",
    drop_when="upstream drops the decorator",
    edits=(
        Replace(
            "llava/model/multimodal_encoder/clip_encoder.py",
            "CLIPVisionTower",
            find="@torch.no_grad()\ndef forward(self, images):\n    __body",
            put="""
                def forward(self, images):
                    wanted = any(parameter.requires_grad for parameter in self.parameters())
                    with torch.set_grad_enabled(wanted and torch.is_grad_enabled()):
                        __body
            """,
        ),
    ),
)
