"""A tower that the checkpoint carries is built from its config; the checkpoint fills it."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

FILE = "llava/model/multimodal_encoder/clip_encoder.py"

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `from_pretrained with a meta device context manager` on every 1.6 checkpoint",
    why="With `unfreeze_mm_vision_tower` the tower is made inside the model's own `from_pretrained`, where a second "
    "one "
    "is refused; the stock weights it loaded were overwritten anyway.",
    not_outside="It happens in the tower's constructor.",
    drop_when="upstream builds the tower from its config",
    edits=(
        Replace(
            FILE,
            "CLIPVisionTower.__init__",
            find="if not delay_load:\n    self.load_model()\n"
            "elif __unfreeze:\n    self.load_model()\n"
            "else:\n    __config",
            put="if not delay_load:\n    self.load_model()\n"
            "elif __unfreeze:\n    towers.build(self)\n"
            "else:\n    __config",
        ),
    ),
    proven_by="test_upstream_loads.py::test_every_float_has_the_asked_dtype_and_the_model_answers[1.6-vicuna-float32]",
    imports=(Import(FILE, "CLIPVisionTower.__init__", ("towers",)),),
)
