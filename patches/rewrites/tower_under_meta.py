"""A tower that the checkpoint carries is built from its config; the checkpoint fills it."""

from patches.edits import After, Replace
from patches.series import Kind, Patch

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
            "elif __unfreeze:\n    self.build_model()\n"
            "else:\n    __config",
        ),
        After(
            FILE,
            "CLIPVisionTower",
            find="def load_model(self, device_map=None): ...",
            put="""
                def build_model(self):
                    self.image_processor = CLIPImageProcessor.from_pretrained(self.vision_tower_name)
                    self.vision_tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(self.vision_tower_name))
                    self.vision_tower.requires_grad_(False)
                    self.is_loaded = True
            """,
        ),
    ),
)
