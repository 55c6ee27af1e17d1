"""Weights that have no place are an error, not a random projector."""

from patches.edits import Before, Replace
from patches.series import Import, Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1237, #867, #682 (problems 8, 23)",
    why="`strict=False` accepts any file: a wrong base or projector type left the projector random, "
    "and the model spoke garbage.",
    not_outside="The weights are loaded in the middle of the function.",
    drop_when="upstream checks the keys",
    edits=(
        Replace(
            FILE,
            FUNCTION,
            find="model.load_state_dict(non_lora_trainables, strict=False)",
            put="weights.load_parts(model, non_lora_trainables, folder)",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="model.load_state_dict(mm_projector_weights, strict=False)",
            put="weights.load_parts(model, mm_projector_weights, folder)",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="LlavaLlamaForCausalLM.from_pretrained(model_path, *__rest)",
            put="weights.load_whole(LlavaLlamaForCausalLM, model_path, *__rest)",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="LlavaMistralForCausalLM.from_pretrained(model_path, *__rest)",
            put="weights.load_whole(LlavaMistralForCausalLM, model_path, *__rest)",
        ),
        Before(
            FILE,
            FUNCTION,
            find="from huggingface_hub import hf_hub_download",
            put="folder.require('non_lora_trainables.bin')",
        ),
    ),
    proven_by="test_upstream_loads.py::test_wrong_bases_and_missing_parts_say_what_to_do",
    needs=("builder_folder",),
    imports=(Import(FILE, "load_pretrained_model", ("weights",)),),
)
