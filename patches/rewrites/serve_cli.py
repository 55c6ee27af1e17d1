"""The terminal chat runs on any device, in any dtype, with the model's own template."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

FILE = "llava/serve/cli.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #361 (problems 10, 22)",
    why="fp16 and CUDA are hard-coded, the conversation is guessed from the folder's name.",
    not_outside="It is one function that does all.",
    drop_when="upstream takes a dtype and reads the template from files",
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
            find='if "llama-2" in __name: ...\nif args.conv_mode is not None and __differs: ...',
            put="""
                from llava_finetune.upstream import placement, templates
                args.conv_mode = templates.choose_template(args.conv_mode, args.model_path, model, tokenizer)
            """,
        ),
        Replace(FILE, "main", find='"mpt" in model_name.lower()', put='conv.version == "mpt"'),
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
)
