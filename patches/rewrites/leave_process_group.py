"""`train()` ends the process group it used."""

from patches.edits import After
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.STACK,
    origin="measured: 1 of 8 offload runs aborted after a good save",
    why="Ranks that exit while others still write abort the run.",
    not_outside="It belongs behind upstream's last statement.",
    drop_when="upstream ends the group",
    edits=(
        After(
            "llava/train/train.py",
            "train",
            find="if training_args.lora_enable:\n    state_dict = get_peft_state_maybe_zero_3(*__args)\n    __more\n"
            "else:\n    __full",
            put="ranks.leave_group()",
        ),
    ),
    proven_by="test_alive_training.py::test_the_process_group_is_left_at_the_end",
    imports=(Import("llava/train/train.py", "train", ("ranks",)),),
)
