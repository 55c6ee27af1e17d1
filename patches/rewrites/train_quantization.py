"""QLoRA: one quantization config, and a skip list that still matches."""

from patches.edits import Replace
from patches.series import Kind, Patch

FILE = "llava/train/train.py"

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: TypeError, and a projector quantised in silence; haotian-liu/LLaVA#783, #697",
    why="`load_in_4bit` is no model argument any more; skip entries match from the start of a module's full name, so "
    "`mm_projector` skips nothing, and any list drops the default that keeps `lm_head` in 16 bit.",
    not_outside="The dictionary is a local of `train()`.",
    drop_when="upstream passes `quantization_config` alone with full names",
    edits=(
        Replace(
            FILE,
            "train",
            find="dict(device_map=__map, load_in_4bit=__four, load_in_8bit=__eight, quantization_config=__config)",
            put="dict(device_map=__map, quantization_config=__config)",
        ),
        Replace(FILE, "train", find='["mm_projector"]', put='["model.mm_projector", "model.vision_tower", "lm_head"]'),
    ),
    proven_by="test_alive_training.py::test_qlora_keeps_projector_tower_and_head_in_16_bit",
)
