"""The vision tower is always on the projector's device and in the model's dtype."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12, haotian-liu/LLaVA#1712 (problems 19, 22)",
    why="With `device_map='auto'`, the default, the tower was never cast: a 16-bit model with fp32 eyes.",
    not_outside="A caller can cast after the fact, but every caller forgets.",
    drop_when="upstream casts the tower whatever the device map",
    edits=(
        Replace(
            "llava/model/builder.py",
            "load_pretrained_model",
            find="vision_tower = model.get_vision_tower()\n"
            "if not vision_tower.is_loaded:\n    __load\n"
            "if device_map != 'auto':\n    __cast\n",
            put="vision_tower = placement.place_vision_tower(model, dtype)",
        ),
    ),
    proven_by="test_upstream_loads.py::test_every_float_has_the_asked_dtype_and_the_model_answers[llava-1.5-bfloat16]",
    needs=("builder_dtype",),
    imports=(Import("llava/model/builder.py", "load_pretrained_model", ("placement",)),),
)
