"""The builder picks the device: CUDA where there is one."""

from patches.edits import Before, Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#380, #361 (problem 40)",
    why="The default device is `cuda`, which fails on every other machine.",
    not_outside="The device map is made by the function's first statements.",
    drop_when="upstream resolves the device",
    edits=(
        Before(
            FILE,
            FUNCTION,
            find='kwargs = {"device_map": device_map, **kwargs}',
            put="device = placement.choose_device(device)",
        ),
        Replace(
            FILE,
            FUNCTION,
            find='if device != "cuda":\n    kwargs["device_map"] = {"": device}',
            put='kwargs["device_map"] = placement.choose_device_map(device, device_map)',
        ),
        Replace(FILE, FUNCTION, find='"cuda"', put='"auto"'),
    ),
    proven_by="test_alive_models.py::test_a_model_loads_where_no_device_is_asked_for",
    imports=(Import(FILE, "load_pretrained_model", ("placement",)),),
    drop_if=(
        Absent("llava/model/builder.py", "load_pretrained_model", '"cuda"'),
        Absent("llava/model/builder.py", "load_pretrained_model", "__x.cuda()"),
    ),
)
