"""The VQA scripts run on any device, in any dtype, with the model's own template."""

from patches.edits import Edit, Replace
from patches.series import Kind, Patch

FOLDER = "llava/eval/"
SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")


def edits_for(name: str) -> tuple[Edit, ...]:
    """What all four scripts need."""
    file = f"{FOLDER}{name}.py"
    return (
        Replace(
            file,
            "eval_model",
            find="tokenizer, model, image_processor, context_len = "
            "load_pretrained_model(model_path, args.model_base, __name)",
            put="""
                tokenizer, model, image_processor, context_len = load_pretrained_model(
                    model_path, args.model_base, __name, device=args.device, dtype=args.dtype)
                from llava_finetune.upstream import templates
                args.conv_mode = templates.choose_template(args.conv_mode, model_path, model, tokenizer)
            """,
        ),
        Replace(file, "eval_model", find="os.path.dirname(answers_file)", put="os.path.dirname(answers_file) or '.'"),
        Replace(
            file,
            "",
            find='parser.add_argument("--conv-mode", type=str, default=__own)',
            put="""
                parser.add_argument("--conv-mode", type=str, default=None)
                parser.add_argument("--device", type=str, default="auto")
                parser.add_argument("--dtype", type=str, default="auto")
            """,
        ),
    )


PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #1363; thu-ml/MMTrustEval#3 (problems 10, 22)",
    why="`--conv-mode` defaulted to one template for every model, and neither device nor dtype could be chosen.",
    not_outside="Each is one function that does all.",
    drop_when="upstream takes device and dtype, and reads the template from files",
    edits=tuple(edit for name in SCRIPTS for edit in edits_for(name)),
)
