"""A pretrained projector loads into parameters that ZeRO-3 has split."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1619, #1428; PR #1250, never merged (problem 29)",
    why="`size mismatch ... torch.Size([0])`: a LLaVA base's projector is split when the pretrained one is loaded.",
    not_outside="The load is in the middle of the function.",
    drop_when="upstream gathers the parameters",
    edits=(
        Replace(
            "llava/model/llava_arch.py",
            "LlavaMetaModel.initialize_vision_modules",
            find="self.mm_projector.load_state_dict(__weights)",
            put="""
                guards.load_projector(self.mm_projector, __weights, pretrain_mm_mlp_adapter)
            """,
        ),
    ),
    proven_by="test_alive_models.py::test_a_pretrained_projector_is_loaded_by_the_loader_that_knows_zero3",
    imports=(Import("llava/model/llava_arch.py", "LlavaMetaModel.initialize_vision_modules", ("guards",)),),
)
