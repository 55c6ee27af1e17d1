"""run_llava runs on any device, in any dtype, with the model's own template."""

from patches.edits import After, Replace
from patches.series import Absent, Kind, Patch

FILE = "llava/eval/run_llava.py"
FUNCTION = "eval_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #1363; llava-rlhf/LLaVA-RLHF#12 (problems 10, 22)",
    why="`.cuda()` and fp16 are hard-coded, the conversation is guessed from the folder's name.",
    not_outside="It is one function that does all.",
    drop_when="upstream takes device and dtype, and reads the template from files",
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
            find='if "llama-2" in __name: ...\nif args.conv_mode is not None and __differs: ...',
            put="""
                from llava_finetune.upstream import placement, templates
                args.conv_mode = templates.choose_template(args.conv_mode, args.model_path, model, tokenizer)
            """,
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
)
