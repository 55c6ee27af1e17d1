"""run_llava asks with the model's own template."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

FILE = "llava/eval/run_llava.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #1363 (problem 10)",
    why="The conversation was guessed from the folder's name, and a name without `v1` gave the oldest one.",
    not_outside="The guess is in the middle of the function, between the load and the question.",
    drop_when="upstream reads the template from files",
    edits=(
        Replace(
            FILE,
            "eval_model",
            find='if "llama-2" in __name: ...\nif args.conv_mode is not None and __differs: ...',
            put="args.conv_mode = templates.choose_template(args.conv_mode, args.model_path, model, tokenizer)",
        ),
    ),
    proven_by="test_upstream_tools.py::test_an_unknown_template_is_refused_with_the_known_ones",
    imports=(Import(FILE, "eval_model", ("templates",)),),
)
