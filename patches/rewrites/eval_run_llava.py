"""run_llava runs on any device, in any dtype."""

from patches.edits import After, Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/eval/run_llava.py"
FUNCTION = "eval_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12 (problem 22)",
    why="fp16 and CUDA are hard-coded, in the load and for the pictures.",
    not_outside="Load, pictures and ids are placed inside the one function that also asks.",
    drop_when="upstream takes device and dtype",
    edits=(
        Replace(
            FILE,
            FUNCTION,
            find="load_pretrained_model(args.model_path, args.model_base, model_name)",
            put="load_pretrained_model(args.model_path, args.model_base, model_name, "
            "device=getattr(args, 'device', 'auto'), dtype=getattr(args, 'dtype', 'auto'))",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="process_images(*__args).to(model.device, dtype=torch.float16)",
            put="placement.images_for(model, process_images(*__args))",
        ),
        Replace(FILE, FUNCTION, find="__ids.cuda()", put="__ids.to(model.device)"),
        After(
            FILE,
            "",
            find='parser.add_argument("--model-base", type=str, default=None)',
            put="""
                parser.add_argument("--device", type=str, default="auto")
                parser.add_argument("--dtype", type=str, default="auto")
            """,
        ),
    ),
    proofs=(Absent(FILE, FUNCTION, "torch.float16"), Absent(FILE, FUNCTION, "__x.cuda()")),
    proven_by="test_upstream_tools.py::test_run_llava_answers_about_one_and_two_pictures",
    needs=(
        "builder_device",
        "builder_dtype",
    ),
    imports=(Import(FILE, FUNCTION, ("placement",)),),
    drop_if=(*Absent.hard_coded(FILE, FUNCTION),),
)
