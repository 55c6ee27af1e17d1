"""`image_newline` goes to the features' device."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.BACKPORT,
    origin="upstream after the pin, at c121f0432da2",
    why="On several devices the features of a picture without views and `image_newline` are on different ones.",
    not_outside="The concatenation is inside the function.",
    drop_when="the pin moves past upstream's own change",
    edits=(
        Replace(
            "llava/model/llava_arch.py",
            "LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal",
            find="self.model.image_newline[None]",
            put="self.model.image_newline[None].to(image_feature.device)",
        ),
    ),
    proven_by="test_alive_models.py::test_the_newline_joins_features_on_their_device",
)
