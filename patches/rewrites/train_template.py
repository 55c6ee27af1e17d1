"""A template that is not there, or does not fit the tokenizer, is refused."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#661, #1426 (problems 2, 34)",
    why="An unknown `--version` trained with vicuna_v1 in silence; one whose end of turn the tokenizer does not hold "
    "masks every label.",
    not_outside="The template is chosen inside `train()`.",
    drop_when="upstream refuses both",
    edits=(
        Replace(
            "llava/train/train.py",
            "train",
            find="if model_args.version in conversation_lib.conv_templates:\n    __known\n"
            "else:\n    conversation_lib.default_conversation = conversation_lib.conv_templates['vicuna_v1']",
            put="conversation_lib.default_conversation = guards.choose_template(model_args.version, tokenizer)",
        ),
    ),
    proven_by="test_alive_training.py::test_an_unknown_template_ends_the_run",
    imports=(Import("llava/train/train.py", "train", ("guards",)),),
)
