"""Numbers in flags: what is outside of a range is wrong use, on every command line."""

from __future__ import annotations

import argparse

import pytest

from data_prep.numbers import real, seed, whole
from llava_finetune.config.arguments import parse
from llava_finetune.errors import UsageError, UserError

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--report_to", "none"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--learning_rate", "nan"), ("--learning_rate", "inf"), ("--learning_rate", "-1"),
        ("--lora_r", "0"), ("--lora_r", "-4"), ("--lora_r", "99999999"), ("--lora_dropout", "2"),
        ("--lora_dropout", "nan"), ("--per_device_train_batch_size", "0"), ("--per_device_train_batch_size", "-3"),
        ("--gradient_accumulation_steps", "0"), ("--max_grad_norm", "nan"), ("--weight_decay", "-1"),
        ("--num_train_epochs", "nan"), ("--num_train_epochs", "-2"), ("--adam_beta1", "1"), ("--seed", "-1"),
        ("--model_max_length", "-5"), ("--model_max_length", "0"), ("--dataloader_num_workers", "-1"),
        ("--logging_steps", "nan"), ("--max_steps", "-7"), ("--label_smoothing_factor", "0.1"),
        ("--save_steps", "inf"), ("--ddp_timeout", "1" * 30), ("--lora_r", "1" * 400), ("--lora_r", "9" * 5000),
        ("--lora_r", "many"), ("--max_steps", "0x10"), ("--max_pixels", "0"), ("--max_steps", "0"),
        ("--mm_vision_select_layer", "99999"),
        ("--bits", "nan"), ("--replay", "f.json:\u00b2"), ("--replay", "f.json:1e-1"),
    ],
)  # fmt: skip
def test_a_number_outside_of_its_range_names_flag_and_range(flag: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse([*NEEDED, flag, value])
    assert str(refused.value).startswith(f"{flag} ") and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bf16", "maybe"], "^--bf16 maybe: expected True or False"),
        (["--tf32", "maybe", "--dpo", "maybe"], "^--dpo: Truthy value expected: got maybe"),
        (["--eval_strategy", "sometimes"], "^--eval_strategy: .*sometimes"),
        (["--seed"], "^--seed: expected one argument$"),
        (["--eval_data_path", ""], r"^--eval_data_path: its value is empty \(a variable that is not set\?\)"),
        (["--init_lora="], "^--init_lora: its value is empty"),
        (["--deepspeed", '{"zero_optimization": 5}'], "zero_optimization: expected an object, found 5"),
        (["--deepspeed", "5"], "^--deepspeed 5: no such file; name a file of deepspeed_configs, or leave the flag out"),
        (["--deepspeed", "[]"], r"^--deepspeed \[\]: no such file"),
    ],
)
def test_what_the_parser_refuses_is_one_line_and_no_screen_of_flags(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=said):
        parse([*NEEDED, *words])
    assert capsys.readouterr() == ("", "")


def test_usual_numbers_are_taken() -> None:
    training = parse([*NEEDED, "--lora_r", "128", "--lora_dropout", "0", "--warmup_steps", "0.03"]).training
    assert (training.lora_r, training.lora_dropout) == (128, 0)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (whole(0), "-1"), (whole(1), "0"), (whole(1), "x"), (whole(1), "1.5"), (whole(1), "9" * 5000),
        (whole(1, 8), "9"), (real(0), "nan"), (real(0), "inf"), (real(0, 1, above=True), "0"), (real(0, 1), "2"),
        (seed, "-1"), (seed, str(2**32)),
    ],
)  # fmt: skip
def test_a_flags_type_refuses_what_is_outside(kind: object, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a"):
        kind(text)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [whole(0), whole(-1), real(0, 2**31 - 1, above=True)])
def test_a_number_beyond_the_largest_is_told_the_largest(kind: object) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"(to|at most) 2147483647, found 9{20}$"):
        kind("9" * 20)  # type: ignore[operator]


@pytest.mark.parametrize("value", ["1", "1.0", "5", "-0.1", "nan", "x"])
def test_a_warmup_ratio_that_would_be_read_as_steps_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"--warmup_ratio \S+: expected a share of all steps, from 0 to below 1"):
        parse([*NEEDED, "--warmup_ratio", value])
    assert parse([*NEEDED, "--warmup_ratio", "0"]).training.warmup_steps == 0


def test_records_to_share_among_without_sharing_are_refused() -> None:
    with pytest.raises(UsageError, match="--share_among 8 without --share_pictures True: nothing is put together"):
        parse([*NEEDED, "--share_among", "8"])
