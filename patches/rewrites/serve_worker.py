"""The model worker runs on any device, in any dtype, and knows by its files that a model sees."""

from patches.edits import AddParameter, After, Replace
from patches.series import Absent, Kind, Patch

FILE = "llava/serve/model_worker.py"
STREAM = "ModelWorker.generate_stream"

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#738, #361, #1634 (problems 10, 22, 30)",
    why="fp16 and CUDA are hard-coded; a folder without `llava` in its name got a worker without eyes.",
    not_outside="It is one class that does all.",
    drop_when="upstream takes a dtype and asks the model",
    edits=(
        AddParameter(FILE, "ModelWorker.__init__", find="use_flash_attn", put="dtype='auto'"),
        Replace(
            FILE,
            "ModelWorker.__init__",
            find="load_pretrained_model(*__args, use_flash_attn=use_flash_attn)",
            put="load_pretrained_model(*__args, use_flash_attn=use_flash_attn, dtype=dtype)",
        ),
        Replace(
            FILE,
            "ModelWorker.__init__",
            find="'llava' in self.model_name.lower()",
            put="self.image_processor is not None",
        ),
        After(FILE, "ModelWorker.__init__", find="self.is_multimodal = __eyes", put="self.device = self.model.device"),
        Replace(
            FILE,
            STREAM,
            find="if type(images) is list: ...",
            put="from llava_finetune.upstream import placement\nimages = placement.images_for(model, images)",
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
)
