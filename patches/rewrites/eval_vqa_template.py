"""The VQA scripts ask with the model's own template."""

from patches.edits import After, Edit, Replace
from patches.series import Import, Kind, Patch

SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")
BY_NAME = ("model_vqa_loader", "model_vqa_mmbench")
LOADED = "tokenizer, model, image_processor, context_len = load_pretrained_model(*__args)"
CHOSEN = "args.conv_mode = templates.choose_template(args.conv_mode, model_path, model, tokenizer)"


def edits_for(name: str) -> tuple[Edit, ...]:
    """Two of the four chose another template for a folder with `plain` in its name."""
    file, by_name = f"llava/eval/{name}.py", "if 'plain' in __name and __tuned and __marked: ..."
    return (
        Replace(file, "eval_model", find=by_name, put=CHOSEN)
        if name in BY_NAME
        else After(file, "eval_model", find=LOADED, put=CHOSEN),
        Replace(
            file,
            "",
            find='parser.add_argument("--conv-mode", type=str, default="llava_v1")'
            if name != "model_vqa_science"
            else 'parser.add_argument("--conv-mode", type=str, default="llava_v0")',
            put='parser.add_argument("--conv-mode", type=str, default=None)',
        ),
    )


PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #1363 (problem 10)",
    why="`--conv-mode` defaulted to one template for every model.",
    not_outside="The template is needed between the load and the first question, inside one function.",
    drop_when="upstream reads the template from files",
    edits=tuple(edit for name in SCRIPTS for edit in edits_for(name)),
    proven_by="test_alive_tools.py::test_the_vqa_scripts_ask_the_model_for_its_template",
    imports=tuple(Import(f"llava/eval/{name}.py", "eval_model", ("templates",)) for name in SCRIPTS),
)
