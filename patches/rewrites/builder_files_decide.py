"""Files decide what a folder is: adapter, projector or model, Llama or Mistral."""

from patches.edits import Replace
from patches.series import Absent, Kind, Patch

FILE = "llava/model/builder.py"
FUNCTION = "load_pretrained_model"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #160, #738, #129 (problems 10, 21)",
    why="A folder had to be called `llava` and `lora`; `prompt` counts as MPT; a wrong name gave a model without eyes.",
    not_outside="The name tests choose the branches of the function.",
    drop_when="upstream reads adapter_config.json and config.json",
    edits=(
        Replace(FILE, FUNCTION, find="if 'lora' in __name and model_base is None:\n    __warn", put=""),
        Replace(
            FILE,
            FUNCTION,
            find="'lora' in model_name.lower() and model_base is not None",
            put="folder.kind == folders.ADAPTER",
        ),
        Replace(FILE, FUNCTION, find="'llava' in model_name.lower()", put="folder.is_llava", count=2),
        Replace(FILE, FUNCTION, find="'mistral' in model_name.lower()", put="folder.family == 'mistral'"),
        Replace(FILE, FUNCTION, find="'mpt' in model_name.lower()", put="folder.family == 'mpt'", count=3),
        Replace(
            FILE,
            FUNCTION,
            find="LlavaLlamaForCausalLM.from_pretrained(model_base, *__rest)",
            put="folder.model_class().from_pretrained(model_base, *__rest)",
            count=2,
        ),
        Replace(
            FILE,
            FUNCTION,
            find="lora_cfg_pretrained = __class.from_pretrained(model_path)",
            put="lora_cfg_pretrained = folder.load_config()",
        ),
        Replace(
            FILE,
            FUNCTION,
            find="cfg_pretrained = AutoConfig.from_pretrained(model_path)",
            put="cfg_pretrained = folder.load_config()",
        ),
    ),
    proofs=(Absent(FILE, FUNCTION, "model_name.lower()"),),
    proven_by="test_upstream_loads.py::test_a_folders_name_decides_nothing[plain]",
    needs=("builder_folder",),
    drop_if=(
        Absent("llava/model/builder.py", "load_pretrained_model", "__x.lower()"),
        Absent("llava/model/builder.py", "load_pretrained_model", "__a in __b"),
    ),
)
