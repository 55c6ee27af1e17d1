"""ZeRO-3 gets one dtype: what is made after the base model is cast like it."""

from patches.edits import Before
from patches.series import Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: `defragment: assert len(set(t.dtype ...)) == 1`, `BFloat16 != float`",
    why="A fp32 projector or fp32 adapter beside a bf16 base is refused by ZeRO-3.",
    not_outside="It has to happen between the building of the modules and the Trainer.",
    drop_when="DeepSpeed casts mixed models itself again",
    edits=(
        Before(
            "llava/train/train.py",
            "train",
            find="data_module = make_supervised_data_module(*__args)",
            put="""
                from transformers.integrations import is_deepspeed_zero3_enabled
                if training_args.bf16 and is_deepspeed_zero3_enabled():
                    for parameter in model.parameters():
                        if parameter.dtype == torch.float32 and not hasattr(parameter, "ds_id"):
                            parameter.data = parameter.data.to(torch.bfloat16)
            """,
        ),
    ),
)
