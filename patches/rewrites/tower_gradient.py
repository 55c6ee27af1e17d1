"""The tower computes gradients when its parameters ask for them."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

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
                    with towers.gradient_where_trained(self):
                        __body
            """,
        ),
    ),
    proven_by="test_guards.py::test_a_trainable_tower_gets_gradients_and_a_frozen_one_none",
    imports=(Import("llava/model/multimodal_encoder/clip_encoder.py", "CLIPVisionTower.forward", ("towers",)),),
    drop_if=(
        Absent("llava/model/multimodal_encoder/clip_encoder.py", "", "torch.no_grad()"),
        Absent("llava/model/multimodal_encoder/clip_encoder.py", "", "torch.inference_mode()"),
    ),
)
