"""The terminal chat remembers its own answers."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="measured; later versions of upstream decode the whole output too",
    why="`generate` returns new tokens only; cutting the prompt's length off them left an empty answer in the history, "
    "and the second question was asked of a model that had said nothing.",
    not_outside="It is one function that does all.",
    drop_when="upstream decodes the whole output",
    edits=(
        Replace(
            "llava/serve/cli.py",
            "main",
            find="tokenizer.decode(output_ids[0, input_ids.shape[1]:])",
            put="tokenizer.decode(output_ids[0], skip_special_tokens=True)",
        ),
    ),
)
