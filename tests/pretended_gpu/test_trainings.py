"""Whole trainings on a pretended GPU, two layers of a 7B's widths: types, devices, waits, operations, recomputation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest

from llava_finetune.planning.activations import LOSS_CHUNK
from llava_finetune.planning.from_config import read_shape
from llava_finetune.planning.memory import REPLAYED, estimate
from llava_finetune.planning.setting import Setting
from llava_finetune.planning.shapes import Shape
from llava_finetune.pretended_gpu.facts import Facts
from llava_finetune.pretended_gpu.training import STEPS
from tests.pretended_gpu.jobs import ASKED, JOBS, SHORT

BF16, FP16, FP32, BYTES = "torch.bfloat16", "torch.float16", "torch.float32", "torch.uint8"
FP8 = "torch.float8_e4m3fn"
TYPES = {
    "lora": {("frozen", BF16), ("trained", FP32)},
    "lora in the tower": {("frozen", BF16), ("trained", FP32)},
    "lora on a T4": {("frozen", FP16), ("trained", FP32)},
    "qlora": {("frozen", BYTES), ("frozen", BF16), ("frozen", FP32), ("trained", FP32)},
    "lora, fp8 base": {("frozen", BYTES), ("frozen", BF16), ("trained", FP32)},
    "full": {("frozen", BF16), ("trained", BF16), ("trained", FP32)},
    "pretrain": {("frozen", BF16), ("trained", FP32)},
    "1.6": {("frozen", BF16), ("trained", BF16), ("trained", FP32)},
}
"""Types of parameters: only a quantised base's norms and embeddings are frozen in fp32, which is peft's choice."""

LOGGED = ("item", "transformers/trainer.py:_maybe_log_save_evaluate")
JUDGED = ("synchronize event", "llava_finetune/training/watch.py:look")
SUMMED = ("item", "transformers/trainer.py:_finalize_training")
"""All that the host waits for, between steps: loss and gradient norm, which transformers logs and we judge when the
next step begins, and the sum of the losses at the end of the run."""

pytestmark = pytest.mark.slow
EACH = pytest.mark.parametrize("name", JOBS)


@EACH
def test_no_operator_meets_tensors_of_two_devices(name: str, facts: Callable[[str], Facts]) -> None:
    assert facts(name).mixed == {}


@pytest.mark.parametrize("name", TYPES)
def test_every_parameter_has_the_stated_type(name: str, facts: Callable[[str], Facts]) -> None:
    assert facts(name).dtypes.keys() == TYPES[name]


@EACH
def test_every_product_is_computed_in_16_bit(name: str, facts: Callable[[str], Facts]) -> None:
    assert facts(name).product_types() - {FP8} == {FP16 if "T4" in name else BF16}
    assert (FP8 in facts(name).product_types()) == ("fp8" in name)


@pytest.mark.parametrize("name", [name for name in JOBS if "steps" not in JOBS[name]])
def test_the_host_waits_only_where_it_is_listed(name: str, facts: Callable[[str], Facts]) -> None:
    waits = facts(name).waits
    assert {wait for wait in waits if wait[0] not in ("build", "log")} == set(), "forward, backward, optimizer"
    found = {(kind, place): number for (phase, kind, place), number in waits.items() if phase == "log"}
    accumulation = JOBS[name].get("accumulation", 1)
    assert found == {LOGGED: 2 * STEPS, JUDGED: (STEPS - 1) * (accumulation + 1), SUMMED: 1}


@pytest.mark.parametrize("name", ["lora", "lora, no dropout", "lora, checkpointed", "lora on a T4", "long answers"])
def test_operations_are_those_that_the_work_needs_and_no_more(name: str, facts: Callable[[str], Facts]) -> None:
    expected = dict(work(name))
    seen = facts(name)
    assert {phase: seen.flops(phase) for phase in expected} == expected
    assert seen.flops() == sum(expected.values())


def test_pefts_own_layers_need_the_same_operations(facts: Callable[[str], Facts]) -> None:
    assert facts("lora, peft's layers").flops() == facts("lora").flops()


def test_one_step_with_what_an_earlier_batch_left_holds_what_two_accumulated_hold(
    facts: Callable[[str], Facts],
) -> None:
    """What plan --exact pretends, at a quarter of the work."""
    short, whole = facts("lora, one step"), facts("lora, accumulated")
    assert short.peak == pytest.approx(whole.peak, rel=0.002)
    assert short.parts["optimizer"] == whole.parts["optimizer"] and short.parts["gradients"] > 0


def test_a_base_in_fp8_needs_the_same_operations_and_half_its_memory(facts: Callable[[str], Facts]) -> None:
    plain, small = facts("lora"), facts("lora, fp8 base")
    assert small.flops() == plain.flops()
    shape = read_shape("liuhaotian/llava-v1.5-7b")
    spared = plain.parts["weights"] - small.parts["weights"]
    assert spared == pytest.approx(2 * shape.language.layer_linear_parameters, rel=0.002), "a byte of two, two layers"


@pytest.mark.parametrize("how", ["", ", checkpointed"])
def test_a_step_needs_no_more_than_transformers_and_peft(
    how: str, facts: Callable[[str], Facts], note: Callable[[str], None]
) -> None:
    """Where the head weighs nothing and no batch has padding; both spare more elsewhere, never less."""
    ours, theirs = facts(f"ours{how}"), facts(f"transformers{how}")
    assert theirs.mixed == {} and ours.lengths == theirs.lengths
    shares = f"{ours.flops() / theirs.flops():.2f} of the operations, {ours.peak / theirs.peak:.2f} of the peak"
    note(f"ours beside transformers + peft, two layers of a 7B{how}: {shares}")
    assert ours.flops() <= theirs.flops() and ours.peak <= theirs.peak


@pytest.mark.parametrize("name", ASKED)
def test_answers_and_their_losses_stay_on_the_gpu_in_the_stated_type(name: str, facts: Callable[[str], Facts]) -> None:
    seen, half = facts(name), FP16 if "T4" in name else BF16
    quantised = {("cuda", BYTES)} if "4 bit" in name else set()
    assert seen.mixed == {} and seen.dtypes.keys() == {("cuda", half)} | quantised
    assert seen.product_types() == {half}
    assert {phase for phase, _, _ in seen.waits} <= {"build", "answer", "losses"}


def test_accumulated_batches_do_the_work_of_a_step_each(facts: Callable[[str], Facts]) -> None:
    assert facts("lora, accumulated").flops() == 2 * facts("lora, checkpointed").flops()


def test_the_allocator_reserves_little_beside_what_is_held(facts: Callable[[str], Facts]) -> None:
    for name in JOBS:
        assert facts(name).peak < facts(name).reserved < 1.25 * facts(name).peak


def test_checkpointed_qlora_reserves_no_more_than_the_plans_share(facts: Callable[[str], Facts]) -> None:
    seen = facts("qlora")
    assert seen.reserved <= (1 + REPLAYED["qlora", True]) * seen.peak


@pytest.mark.parametrize("name", [name for name in JOBS if "steps" not in JOBS[name] and "peft" not in name])
def test_the_plan_counts_what_is_held(name: str, facts: Callable[[str], Facts], note: Callable[[str], None]) -> None:
    """Two layers weigh what belongs to none of them more than a whole model does: closer than this there."""
    values = {**SHORT, **JOBS[name]}
    whole, layers = read_shape(values["model"]), values["layers"]
    language, vision = replace(whole.language, layers=layers), replace(whole.vision, layers=layers + 1)
    names = {one.name for one in fields(Setting)} & values.keys()
    chosen = {one: values[one] for one in names}
    setting = Setting(**chosen, stage=0, accumulated=values.get("accumulation", 1) > 1)
    planned = estimate(replace(whole, language=language, vision=vision), setting).tensors
    if name == "qlora":  # a weight is unpacked inside of bitsandbytes' product, where nothing is seen
        planned -= 2 * language.hidden * language.intermediate
    peak = facts(name).peak
    note(
        f"plan, pretended {name}: {peak / 1e6:.0f} MB seen, {planned / 1e6:.0f} MB planned ({planned / peak - 1:+.1%})"
    )
    assert planned == pytest.approx(peak, rel=0.05)


def work(name: str) -> Iterator[tuple[str, int]]:
    """(phase, floating point operations) of a LoRA step, from shapes alone."""
    values = {**SHORT, **JOBS[name]}
    shape, layers = read_shape(values["model"]), values["layers"]
    setting = Setting("lora", batch=values["batch"], supervised_tokens=values["supervised_tokens"])
    length = values["text_tokens"] + shape.image_tokens
    tokens = setting.batch * length
    language = shape.language
    frozen = layers * language.layer_linear_parameters
    adapters = layers * setting.rank * sum(sum(size) for size in language.linears().values())
    # Causal attention computes half of the square.
    pairs = layers * language.query_size * setting.batch * length**2
    taught = setting.batch * setting.supervised_tokens * language.vocabulary * language.hidden
    patches = setting.batch * shape.vision.num_patches
    first, second = shape.vision.hidden * language.hidden, language.hidden**2
    forward = 2 * tokens * (frozen + adapters) + 2 * pairs
    forward += 2 * taught + 2 * patches * (first + second) + tower(shape, setting, layers)
    backward = 2 * tokens * frozen + 4 * tokens * adapters + 5 * pairs
    backward += 2 * taught + 2 * patches * (first + 2 * second)
    yield "forward", forward
    yield "backward", backward
    if JOBS[name].get("checkpointing", True):
        # Nothing needs what down_proj gave: its wide products, with W and with B, are not computed again.
        spared = layers * (language.intermediate + setting.rank) * language.hidden
        again = 2 * taught if setting.batch * setting.supervised_tokens > LOSS_CHUNK else 0
        yield "recompute", 2 * tokens * (frozen + adapters - spared) + 2 * pairs + again


def tower(shape: Shape, setting: Setting, layers: int) -> int:
    """Operations of the vision tower, forward: features come from the last layer but one, all of them run."""
    vision = shape.vision
    positions = vision.num_patches + 1
    linears = 4 * vision.hidden**2 + 2 * vision.hidden * vision.intermediate
    layer = 2 * positions * linears + 4 * positions**2 * vision.hidden
    embedding = 2 * vision.num_patches * 3 * vision.patch_size**2 * vision.hidden
    return setting.batch * (embedding + (layers + 1) * layer)
