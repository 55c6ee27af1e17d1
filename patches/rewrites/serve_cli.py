"""The terminal chat runs on any device, in any dtype."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/serve/cli.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#361 (problem 22)",
    why="fp16 and CUDA are hard-coded, in the load and for the pictures.",
    not_outside="Load, pictures and ids are placed inside the one function that also asks.",
    drop_when="upstream takes a dtype",
    edits=(
        Replace(
            FILE,
            "main",
            find="load_pretrained_model(*__args, device=args.device)",
            put="load_pretrained_model(*__args, device=args.device, dtype=args.dtype)",
        ),
        Replace(
            FILE,
            "main",
            find="if type(image_tensor) is list: ...",
            put="image_tensor = placement.images_for(model, image_tensor)",
        ),
        Replace(
            FILE,
            "",
            find='parser.add_argument("--device", type=str, default="cuda")',
            put="""
                parser.add_argument("--device", type=str, default="auto")
                parser.add_argument("--dtype", type=str, default="auto")
            """,
        ),
    ),
    proofs=(Absent(FILE, "main", "torch.float16"),),
    proven_by="test_upstream_tools.py::test_the_terminal_chat_takes_a_second_question[16]",
    needs=(
        "builder_device",
        "builder_dtype",
    ),
    imports=(Import(FILE, "main", ("placement",)),),
    drop_if=(*Absent.hard_coded(FILE, ""),),
)
