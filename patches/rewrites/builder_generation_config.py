"""A loaded model's generation config can be saved."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1144, #1252 (problem 11); measured on transformers 5",
    why="Vicuna and Llama-2 carry temperature and top_p without do_sample; saving a merged model raises.",
    not_outside="Every caller that saves would have to know.",
    drop_when="transformers saves such configs",
    edits=(
        Before(
            "llava/model/builder.py",
            "load_pretrained_model",
            find="image_processor = None",
            put="guards.mend_generation_config(model)",
        ),
    ),
    proven_by="test_upstream_loads.py::test_a_generation_config_that_cannot_be_saved_is_mended",
    imports=(Import("llava/model/builder.py", "load_pretrained_model", ("guards",)),),
)
