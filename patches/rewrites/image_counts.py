"""Pictures and <image> tokens are counted before features are spliced in."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#732, #677, #1319 (problem 18)",
    why="A literal <image> in a text, or a missing picture, moved features to the next record "
    "or ended in an IndexError.",
    not_outside="The features are spliced inside the function.",
    drop_when="upstream checks the counts",
    edits=(
        Before(
            "llava/model/llava_arch.py",
            "LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal",
            find="new_input_embeds = []\nnew_labels = []\ncur_image_idx = 0",
            put="""
                guards.check_image_counts(input_ids, image_features, IMAGE_TOKEN_INDEX)
            """,
        ),
    ),
    proven_by="test_guards.py::test_the_splice_itself_refuses_a_batch_that_would_shift",
    imports=(
        Import("llava/model/llava_arch.py", "LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal", ("guards",)),
    ),
)
