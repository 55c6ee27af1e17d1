"""The text-only evaluation asks for an answer and keeps it."""

from patches.edits import After, Replace
from patches.series import Kind, Patch

FILE = "llava/eval/model_qa.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="measured: `unsupported operand type(s) for |: 'Tensor' and 'NoneType'`, then empty answers",
    why="Its stopping rule first answers None; with the v1 template, the default now, the prompt was left without the "
    "answer's role, and the first space ended an answer.",
    not_outside="Prompt, stopping rule and the cut of the answer are one loop; each is wrong without the others.",
    drop_when="upstream writes answers that are not empty",
    edits=(
        Replace(
            FILE,
            "KeywordsStoppingCriteria.__init__",
            find="self.start_len = None",
            put="self.start_len = input_ids.shape[1]",
        ),
        After(
            FILE,
            "eval_model",
            find="conv.append_message(conv.roles[0], qs)",
            put="conv.append_message(conv.roles[1], None)",
        ),
        Replace(FILE, "eval_model", find="[conv.sep]", put="[conv.sep2 or conv.sep]"),
        Replace(
            FILE,
            "eval_model",
            find="outputs = tokenizer.batch_decode(output_ids, skip_special_tokens=True)[0]\n"
            "try: ...\nexcept ValueError: ...\n"
            "outputs = outputs[len(prompt) + len(conv.roles[1]) + 2:index].strip()",
            put="""
                outputs = tokenizer.batch_decode(output_ids[:, input_ids.shape[1]:], skip_special_tokens=True)[0]
                outputs = outputs.split(conv.sep2 or conv.sep)[0].strip()
            """,
        ),
    ),
    proven_by="test_upstream_tools.py::test_the_text_only_evaluation_answers_with_a_language_model",
)
