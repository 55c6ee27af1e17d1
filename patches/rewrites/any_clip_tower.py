"""Any CLIP model is a vision tower, whatever its folder is called; another kind of tower is made by our own class."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#246, yuezih/less-is-more#8 (problem 31)",
    why="Hub names had to start with `openai` or `laion`; others ended in "
    "`Unknown vision tower`, a missing one in a TypeError.",
    not_outside="The test is inside the factory.",
    drop_when="upstream reads the tower's config",
    edits=(
        Replace(
            "llava/model/multimodal_encoder/builder.py",
            "build_vision_tower",
            find="is_absolute_path_exists = os.path.exists(vision_tower)\nif __known:\n    __made\nraise __unknown",
            put="""
                if guards.is_clip(vision_tower):
                    __made
                return towers.another(vision_tower, vision_tower_cfg, **kwargs)
            """,
        ),
    ),
    proven_by="test_alive_models.py::test_a_clip_tower_of_any_name_is_built",
    imports=(Import("llava/model/multimodal_encoder/builder.py", "build_vision_tower", ("guards", "towers")),),
    drop_if=(Absent("llava/model/multimodal_encoder/builder.py", "build_vision_tower", "__x.startswith(*__any)"),),
)
