"""The builder picks the device: CUDA where there is one."""

from patches.edits import Before, Replace
from patches.series import Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#380, #361 (problem 40)",
    why="The default device is `cuda`, which fails on every other machine; device, dtype and the kind of folder are "
    "resolved before anything is loaded.",
    not_outside="They are needed by the function's first statements.",
    drop_when="upstream resolves the device",
    edits=(
        Before(
            FILE,
            FUNCTION,
            find='kwargs = {"device_map": device_map, **kwargs}',
            put="""
                from llava_finetune.upstream import placement, weights
                from llava_finetune.saved import folders
                folder = folders.describe(model_path, model_base)
                model_base = folder.base
                device = placement.choose_device(device)
                dtype = placement.choose_dtype(dtype, device, folder.dtype)
            """,
        ),
        Replace(
            FILE,
            FUNCTION,
            find='if device != "cuda":\n    kwargs["device_map"] = {"": device}',
            put='kwargs["device_map"] = placement.choose_device_map(device, device_map)',
        ),
        Replace(FILE, FUNCTION, find='"cuda"', put='"auto"'),
    ),
)
