"""The loader knows what kind of folder it has been given before it loads anything."""

from patches.edits import Before
from patches.series import Import, Kind, Patch

FILE = "llava/model/builder.py"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#664, #160, #738, #129 (problems 10, 21)",
    why="What a folder is was told by its name, and an adapter's base by the caller; the folder's files tell both.",
    not_outside="Later statements of the function need what is found.",
    drop_when="upstream reads adapter_config.json and config.json",
    edits=(
        Before(
            FILE,
            "load_pretrained_model",
            find='kwargs = {"device_map": device_map, **kwargs}',
            put="""
                folder = folders.describe(model_path, model_base)
                model_base = folder.base
            """,
        ),
    ),
    proven_by="test_alive_models.py::test_an_adapter_finds_the_base_that_it_names",
    imports=(Import(FILE, "load_pretrained_model", ("folders",)),),
)
