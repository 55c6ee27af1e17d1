"""A LLaVA base's config wins over flags that were forgotten."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1237, #682, #867, #1265 (problems 7, 8)",
    why="Defaults of mm_projector_type, mm_vision_select_layer, mm_patch_merge_type and image_aspect_ratio overwrote "
    "the base's config: a tuned 1.5 or 1.6 loaded as another model.",
    not_outside="The values are written inside `train()`.",
    drop_when="upstream reads the base's config",
    edits=(
        Before(
            "llava/train/train.py",
            "train",
            find="model.config.use_cache = False",
            put="guards.keep_base_values(model.config, model_args, data_args)",
        ),
    ),
    proven_by="test_alive_training.py::test_the_values_of_the_base_win",
    imports=(Import("llava/train/train.py", "train", ("guards",)),),
)
