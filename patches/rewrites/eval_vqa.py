"""The VQA scripts run on any device, in any dtype, with the model's own template."""

from patches.edits import After, Edit, Replace
from patches.series import Kind, Patch

SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")
BY_NAME = ("model_vqa_loader", "model_vqa_mmbench")
TEMPLATE = """
from llava_finetune.upstream import templates
args.conv_mode = templates.choose_template(args.conv_mode, model_path, model, tokenizer)
"""


def edits_for(name: str) -> tuple[Edit, ...]:
    """What all four scripts need; two of them chose another template for a folder with `plain` in its name."""
    file, load = f"llava/eval/{name}.py", "load_pretrained_model(model_path, args.model_base, __name)"
    placed = "load_pretrained_model(model_path, args.model_base, __name, device=args.device, dtype=args.dtype)"
    loaded = "tokenizer, model, image_processor, context_len = "
    by_name = "if 'plain' in __name and __tuned and __marked: ..."
    return (
        Replace(file, "eval_model", find=load, put=placed),
        Replace(file, "eval_model", find=by_name, put=TEMPLATE)
        if name in BY_NAME
        else After(file, "eval_model", find=f"{loaded}{placed}", put=TEMPLATE),
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
