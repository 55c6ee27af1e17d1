"""Deltas and consolidated checkpoints keep the dtype of what they are made from, or get the asked one."""

from patches.edits import AddParameter, Before, Edit, Replace
from patches.series import Absent, Kind, Patch

LOAD = "__class.from_pretrained(__path, {}, low_cpu_mem_usage=True)"


def edits_for(name: str, function: str, last: str, count: int) -> tuple[Edit, ...]:
    """One tool: a parameter after `last`, its `count` loads, and a flag."""
    file = f"llava/model/{name}.py"
    return (
        AddParameter(file, function, find=last, put="dtype='auto'"),
        Replace(
            file, function, find=LOAD.format("torch_dtype=torch.float16"), put=LOAD.format("dtype=dtype"), count=count
        ),
        Before(
            file,
            "",
            find="args = parser.parse_args()",
            put='parser.add_argument("--dtype", type=str, default="auto")',
        ),
        Replace(file, "", find=f"{function}(*__args)", put=f"{function}(*__args, dtype=args.dtype)"),
    )


TOOLS = (
    ("make_delta", "make_delta", "hub_repo_id", 2),
    ("apply_delta", "apply_delta", "delta_path", 2),
    ("consolidate", "consolidate_ckpt", "dst_path", 1),
)

PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12 (problem 22)",
    why="fp16 is hard-coded: a bf16 model lost its range on the way through a delta.",
    not_outside="The dtype is an argument in the middle of each function.",
    drop_when="upstream takes a dtype",
    edits=tuple(edit for tool in TOOLS for edit in edits_for(*tool)),
    proofs=tuple(Absent(f"llava/model/{name}.py", function, "torch.float16") for name, function, _, _ in TOOLS),
    proven_by="test_upstream_tools.py::test_a_delta_of_a_bf16_model_stays_bf16_and_gives_the_model_back",
    drop_if=(
        *(
            proof
            for name, function, _, _ in TOOLS
            for proof in Absent.half_precision(f"llava/model/{name}.py", function)
        ),
    ),
)
