"""The VQA scripts put tensors where the model is, in its dtype."""

from patches.edits import Edit, Replace
from patches.series import Absent, Kind, Patch

FUNCTION = "eval_model"
SCRIPTS = ("model_vqa", "model_vqa_mmbench", "model_vqa_science")
LOADER = "llava/eval/model_vqa_loader.py"


def edits_for(name: str) -> tuple[Edit, ...]:
    """Pictures first, ids after: the second pattern would match inside the first."""
    file = f"llava/eval/{name}.py"
    return (
        Replace(file, FUNCTION, find="__image.half().cuda()", put="__image.to(model.device, dtype=model.dtype)"),
        Replace(file, FUNCTION, find="__ids.cuda()", put="__ids.to(model.device)"),
    )


PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12, haotian-liu/LLaVA#380 (problems 22, 40)",
    why="`.cuda()` and fp16 are hard-coded.",
    not_outside="The tensors are made and used inside one loop.",
    drop_when="upstream uses the model's device and dtype",
    edits=(
        *(edit for name in SCRIPTS for edit in edits_for(name)),
        Replace(
            LOADER, FUNCTION, find="input_ids.to(device='cuda', *__more)", put="input_ids.to(model.device, *__more)"
        ),
        Replace(
            LOADER,
            FUNCTION,
            find="image_tensor.to(dtype=torch.float16, device='cuda', *__more)",
            put="image_tensor.to(dtype=model.dtype, device=model.device, *__more)",
        ),
    ),
    proofs=(
        *(Absent(f"llava/eval/{name}.py", FUNCTION, "__x.cuda()") for name in SCRIPTS),
        Absent(LOADER, FUNCTION, "torch.float16"),
    ),
    proven_by="test_upstream_tools.py::test_the_vqa_scripts_write_one_answer_per_question[model_vqa]",
    drop_if=(
        *(
            proof
            for name in (*SCRIPTS, "model_vqa_loader")
            for proof in Absent.hard_coded(f"llava/eval/{name}.py", FUNCTION)
        ),
    ),
)
