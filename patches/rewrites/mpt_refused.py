"""MPT models are refused with the replacement's name."""

from patches.edits import Before, Replace
from patches.series import Import, Kind, Patch

MESSAGE = (
    "MPT models are not supported: upstream's own class no longer runs; "
    "use a Llama, Vicuna or Mistral based LLaVA, e.g. liuhaotian/llava-v1.5-7b"
)

PATCH = Patch(
    kind=Kind.REFUSE,
    origin="measured: the class is broken upstream; haotian-liu/LLaVA#129 (problem 10)",
    why="The MPT class calls the multimodal splice with other arguments than it has; `mpt` in a path such as "
    "`prompt-tuned` chose it.",
    not_outside="The module fails when it is imported, the trainer tests the path.",
    drop_when="upstream's MPT class works",
    edits=(
        Before(
            "llava/model/language_model/llava_mpt.py",
            "",
            find="from typing import Optional, Tuple",
            put=f'raise ImportError("{MESSAGE}")',
        ),
        Replace(
            "llava/train/train.py",
            "train",
            find="'mpt' in model_args.model_name_or_path",
            put="folders.refuse_mpt(model_args.model_name_or_path)",
            count=2,
        ),
    ),
    proven_by="test_alive_models.py::test_the_mpt_class_names_what_replaces_it",
    imports=(Import("llava/train/train.py", "train", ("folders",)),),
)
