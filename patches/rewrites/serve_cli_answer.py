"""The terminal chat remembers its own answers."""

from patches.edits import Replace
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="measured; later versions of upstream decode the whole output too",
    why="`generate` returns new tokens only; cutting the prompt's length off them left an empty answer in the history, "
    "and the second question was asked of a model that had said nothing.",
    not_outside="The answer goes into the history inside the loop that asks.",
    drop_when="upstream decodes the whole output",
    edits=(
        Replace(
            "llava/serve/cli.py",
            "main",
            find="tokenizer.decode(output_ids[0, input_ids.shape[1]:])",
            put="tokenizer.decode(output_ids[0], skip_special_tokens=True)",
        ),
    ),
    proven_by="test_alive_tools.py::test_the_chat_remembers_its_own_answer",
)
