"""The text-only evaluation runs on any device, in any dtype."""

from patches.edits import Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/eval/model_qa.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12 (problem 22)",
    why="`.cuda()` and fp16 are hard-coded.",
    not_outside="The function loads the model itself, by name.",
    drop_when="upstream uses the model's device and dtype",
    edits=(
        Replace(
            FILE,
            "eval_model",
            find="model = AutoModelForCausalLM.from_pretrained(model_name, torch_dtype=torch.float16).cuda()",
            put="""
                device = placement.choose_device("auto")
                model = AutoModelForCausalLM.from_pretrained(model_name, dtype=placement.choose_dtype("auto", device))
                model = model.to(device)
            """,
        ),
        Replace(FILE, "eval_model", find="__ids.cuda()", put="__ids.to(model.device)"),
    ),
    proofs=(Absent(FILE, "eval_model", "torch.float16"), Absent(FILE, "eval_model", "__x.cuda()")),
    proven_by="test_upstream_tools.py::test_the_text_only_evaluation_answers_with_a_language_model",
    imports=(Import(FILE, "eval_model", ("placement",)),),
    drop_if=(*Absent.hard_coded(FILE, "eval_model"),),
)
