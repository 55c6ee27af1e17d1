"""An answers file may be named without a folder."""

from patches.edits import Replace
from patches.series import Kind, Patch

SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")

PATCH = Patch(
    kind=Kind.MEND,
    origin="measured: `FileNotFoundError: [Errno 2] No such file or directory: ''`",
    why="`--answers-file answers.jsonl` made a folder without a name, after the model was loaded.",
    not_outside="The folder is made inside the function that also loads and asks.",
    drop_when="upstream takes a bare file name",
    edits=tuple(
        Replace(
            f"llava/eval/{name}.py",
            "eval_model",
            find="os.path.dirname(answers_file)",
            put="os.path.dirname(answers_file) or '.'",
        )
        for name in SCRIPTS
    ),
    proven_by="test_alive_tools.py::test_an_answers_file_needs_no_folder",
)
