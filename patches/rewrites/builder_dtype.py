"""The builder loads in the asked dtype: auto is what the model was trained in, else what the hardware is good at."""

from patches.edits import AddParameter, Before, Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#886, #463 (problems 21, 22)",
    why="fp16 is hard-coded in five places: a bf16 model overflows to NaN, and bf16 cannot be had.",
    not_outside="The dtype is used inside the function, for parts that are loaded one after the other.",
    drop_when="upstream's builder takes a dtype",
    edits=(
        AddParameter(FILE, FUNCTION, find="use_flash_attn", put="dtype='auto'"),
        Before(
            FILE,
            FUNCTION,
            find='kwargs = {"device_map": device_map, **kwargs}',
            put="dtype = placement.choose_dtype(dtype, device, folder.dtype)",
        ),
        Replace(FILE, FUNCTION, find="torch.float16", put="dtype", count=5),
        Replace(FILE, FUNCTION, find="kwargs['torch_dtype'] = __dtype", put="kwargs['dtype'] = __dtype"),
        Replace(FILE, FUNCTION, find="print('Convert to FP16...')", put=""),
    ),
    proofs=(Absent(FILE, "", "torch.float16"), Absent(FILE, FUNCTION, "torch.float16")),
    proven_by="test_upstream_loads.py::test_every_float_has_the_asked_dtype_and_the_model_answers[llava-1.5-bfloat16]",
    needs=(
        "builder_folder",
        "builder_device",
    ),
    imports=(Import(FILE, "load_pretrained_model", ("placement",)),),
    drop_if=(*Absent.half_precision(FILE, FUNCTION),),
)
