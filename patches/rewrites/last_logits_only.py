"""Generation asks for the last position's logits only."""

from patches.edits import AddParameter, Replace
from patches.series import Kind, Patch


def edits_for(family: str, after: str) -> tuple[AddParameter | Replace, ...]:
    """The same two edits on one of the model classes."""
    file = f"llava/model/language_model/llava_{family}.py"
    function = f"Llava{family.capitalize()}ForCausalLM.forward"
    return (
        AddParameter(file, function, find=after, put="logits_to_keep: int = 0"),
        Replace(
            file,
            function,
            find="super().forward(input_ids=input_ids, *__rest)",
            put="super().forward(input_ids=input_ids, *__rest, logits_to_keep=logits_to_keep)",
        ),
    )


PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1218 (problem 6)",
    why="The fixed signature hides `logits_to_keep`, so that the prefill makes logits for all of a picture's tokens "
    "(0.7 GB for 2,900 tokens of 1.6 and 32k words in fp32).",
    not_outside="transformers looks at the class's own signature.",
    drop_when="upstream's forward takes it",
    edits=(*edits_for("llama", "return_dict"), *edits_for("mistral", "return_dict")),
    proven_by="test_alive_models.py::test_the_last_logits_alone_can_be_had",
)
