"""The terminal chat remembers its own answers."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.BACKPORT,
    origin="upstream after the pin, at c121f0432da2; measured",
    why="`generate` returns new tokens only; cutting the prompt's length off them left an empty answer in the history, "
    "and the second question was asked of a model that had said nothing.",
    not_outside="It is one function that does all.",
    drop_when="the pin moves past upstream's own change",
    edits=(
        Replace(
            "llava/serve/cli.py",
            "main",
            find="tokenizer.decode(output_ids[0, input_ids.shape[1]:])",
            put="tokenizer.decode(output_ids[0], skip_special_tokens=True)",
        ),
    ),
)
