"""The model worker runs on any device, in any dtype."""

from patches.edits import AddParameter, Before, Replace
from patches.series import Absent, Import, Kind, Patch

FILE = "llava/serve/model_worker.py"
STREAM = "ModelWorker.generate_stream"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#361 (problem 22)",
    why="fp16 and CUDA are hard-coded.",
    not_outside="The worker loads its model in its constructor and makes the tensors in its stream.",
    drop_when="upstream takes a dtype",
    edits=(
        AddParameter(FILE, "ModelWorker.__init__", find="use_flash_attn", put="dtype='auto'"),
        Replace(
            FILE,
            "ModelWorker.__init__",
            find="load_pretrained_model(*__args, use_flash_attn=use_flash_attn)",
            put="load_pretrained_model(*__args, use_flash_attn=use_flash_attn, dtype=dtype)",
        ),
        Before(FILE, "ModelWorker.__init__", find="self.is_multimodal = __eyes", put="self.device = self.model.device"),
        Replace(
            FILE,
            STREAM,
            find="if type(images) is list: ...",
            put="images = placement.images_for(model, images)",
        ),
        Replace(
            FILE,
            "",
            find='parser.add_argument("--device", type=str, default="cuda")',
            put="""
                parser.add_argument("--device", type=str, default="auto")
                parser.add_argument("--dtype", type=str, default="auto")
            """,
        ),
        Replace(
            FILE,
            "",
            find="ModelWorker(*__args, use_flash_attn=args.use_flash_attn)",
            put="ModelWorker(*__args, use_flash_attn=args.use_flash_attn, dtype=args.dtype)",
        ),
    ),
    proofs=(Absent(FILE, STREAM, "torch.float16"),),
    proven_by="test_alive_tools.py::test_the_worker_loads_in_the_asked_dtype_where_the_model_is",
    needs=(
        "builder_device",
        "builder_dtype",
    ),
    imports=(Import(FILE, STREAM, ("placement",)),),
    drop_if=(*Absent.hard_coded(FILE, ""),),
)
