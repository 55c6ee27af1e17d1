"""The VQA scripts load on any device and in any dtype."""

from patches.edits import After, Edit, Replace
from patches.series import Kind, Patch

SCRIPTS = ("model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science")


def edits_for(name: str) -> tuple[Edit, ...]:
    """What all four scripts need: two flags, and a load that takes them."""
    file, load = f"llava/eval/{name}.py", "load_pretrained_model(model_path, args.model_base, __name)"
    placed = "load_pretrained_model(model_path, args.model_base, __name, device=args.device, dtype=args.dtype)"
    return (
        Replace(file, "eval_model", find=load, put=placed),
        After(
            file,
            "",
            find='parser.add_argument("--conv-mode", type=str, default=__own)',
            put="""
                parser.add_argument("--device", type=str, default="auto")
                parser.add_argument("--dtype", type=str, default="auto")
            """,
        ),
    )


PATCH = Patch(
    kind=Kind.MEND,
    origin="llava-rlhf/LLaVA-RLHF#12; thu-ml/MMTrustEval#3 (problem 22)",
    why="Neither device nor dtype could be chosen.",
    not_outside="The flags are read where the script starts, and used inside its one function.",
    drop_when="upstream takes device and dtype",
    edits=tuple(edit for name in SCRIPTS for edit in edits_for(name)),
    proven_by="test_upstream_tools.py::test_mmbench_answers_a_table_with_pictures_in_it_over_all_rounds",
    needs=(
        "builder_device",
        "builder_dtype",
    ),
)
