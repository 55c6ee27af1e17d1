"""The builder loads in the asked dtype: auto is what the model was trained in, else what the hardware is good at."""

from patches.edits import AddParameter, Replace
from patches.series import Absent, Kind, Patch

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
        Replace(FILE, FUNCTION, find="torch.float16", put="dtype", count=5),
        Replace(FILE, FUNCTION, find="kwargs['torch_dtype'] = __dtype", put="kwargs['dtype'] = __dtype"),
        Replace(FILE, FUNCTION, find="print('Convert to FP16...')", put=""),
    ),
    proofs=(Absent(FILE, "", "torch.float16"), Absent(FILE, FUNCTION, "torch.float16")),
)
