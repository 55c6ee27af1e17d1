"""The JSON files that a run writes and reads: a type for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llava_finetune.saved.model_documents import Count, Flag, Rows, Text


class Manifest(Struct):
    """llava_finetune.json: what a folder is and what it was made from."""

    kind: Text = None
    base: Text = None
    base_sha256: Text = None
    conversation: Text = None
    dtype: Text = None
    upstream_commit: Text = None
    series: Text = None
    merged_from: Text = None
    merged_sha256: Text = None
    imported_from: Text = None
    upstream_vocab_size: Rows | None = None
    verified: dict[str, Any] | str | None = None


class Sealed(Struct):
    """What a seal says of one file."""

    bytes: Count
    xxh3_128: str


class Seal(Struct):
    """checkpoint.json. `files` held sizes alone before hashes were taken."""

    files: dict[str, Count | Sealed]
    step: Count | None = None
    ended: Flag = None
    settings: dict[str, Any] = {}


class TrainerState(Struct):
    """trainer_state.json of transformers."""

    global_step: Count
    max_steps: Count
    epoch: float | None = None
    best_global_step: Count | None = None
    best_metric: float | None = None
    log_history: list[dict[str, Any]] | None = None
    stateful_callbacks: dict[str, Any] | None = None
    train_batch_size: Count | None = None
    num_train_epochs: Count | None = None
    logging_steps: float | None = None
    save_steps: float | None = None
    eval_steps: float | None = None
    total_flos: float | None = None


class Index(Struct):
    """model.safetensors.index.json: which shard holds a tensor."""

    weight_map: dict[str, str]
    metadata: dict[str, Any] | None = None


class RunArguments(Struct):
    """What of a run's flags other commands look for."""

    data_path: Text = None
    image_folder: Text = None
    eval_data_path: Text = None
    eval_image_folder: Text = None
    pretrain_mm_mlp_adapter: Text = None
    model_name_or_path: Text = None


class RunManifest(Struct):
    """run.json: what a run was called with."""

    arguments: RunArguments | None = None
    command: list[str] | None = None
    model_name_or_path: Text = None
    data_path: Text = None
    image_folder: Text = None
    num_records: Count | None = None
    seed: int | None = None
    world_size: Count | None = None
    conversation: Text = None
    trainable: dict[str, Count] | None = None


class Result(Struct):
    """result.json: a finished run's last step, and the step whose weights it gave."""

    step: Count
    result_step: Count
    settings: dict[str, Any]


Score = Annotated[float, Meta(ge=0, le=1 + 1e-9)]
"""A share as it was computed: rounding may leave it a hair above 1, as sacrebleu's 100.00000000000004 does."""
Bounds = Annotated[list[Score], Meta(min_length=2, max_length=2)]


class Tally(Struct):
    """The scores of some questions, each between 0 and 1, with its interval."""

    exact_match: Score
    interval: Bounds | None = None
    count: Count = 0
    vqa_accuracy: Score | None = None
    vqa_accuracy_interval: Bounds | None = None
    yes_no_count: Count | None = None
    yes_share_expected: Score | None = None
    yes_share: Score | None = None
    yes_share_interval: Bounds | None = None
    false_yes: Score | None = None
    false_yes_interval: Bounds | None = None
    false_no: Score | None = None
    false_no_interval: Bounds | None = None
    unclear: Score | None = None
    unclear_interval: Bounds | None = None


class Scores(Tally):
    """scores-NAME.json: what `evaluate` made of one set of predictions."""

    by_type: dict[str, Tally] = {}
    by_question_type: dict[str, Tally] = {}
    num_images: Count | None = None
    num_truncated: Count | None = None
    token_f1: Score | None = None
    token_f1_interval: Bounds | None = None
    rouge_l: Score | None = None
    rouge_l_interval: Bounds | None = None
    bleu: Score | None = None
    bleu_interval: Bounds | None = None
    box_iou: Score | None = None
    box_iou_interval: Bounds | None = None
    box_accuracy: Score | None = None
    box_accuracy_interval: Bounds | None = None
    image_folder: Text = None


class EngineVerdict(Struct):
    """What one engine answered, in a certificate."""

    notes: list[str] = []
    differences: list[dict[str, Any]] = []
    count: Count | None = None
    identical: Count | None = None
    first_token: float | None = None


class Certificate(Struct):
    """certificate.json: which engines answer as the model does."""

    engines: list[EngineVerdict] = []
    made: Text = None
    reference: Text = None


Auto = Literal["auto"]
Batch = Annotated[int, Meta(ge=1, le=2**31 - 1)] | Auto | None


class ZeroOptimization(Struct):
    """How DeepSpeed shares a model among ranks."""

    stage: Annotated[int, Meta(ge=0, le=3)] | None = None
    offload_optimizer: dict[str, Any] | None = None
    offload_param: dict[str, Any] | None = None
    reduce_bucket_size: float | Auto | None = None
    allgather_bucket_size: float | Auto | None = None


class Switch(Struct):
    """A precision, on or off."""

    enabled: bool | Auto | None = None
    loss_scale: Annotated[float, Meta(ge=0, le=1e30)] | Auto | None = None
    initial_scale_power: Annotated[float, Meta(ge=0, le=64)] | Auto | None = None
    loss_scale_window: Annotated[float, Meta(ge=0, le=2**31)] | Auto | None = None
    hysteresis: Annotated[float, Meta(ge=0, le=2**31)] | Auto | None = None


class Part(Struct):
    """DeepSpeed's own optimizer or schedule."""

    type: Text = None
    params: dict[str, Any] | None = None


class DeepSpeedConfig(Struct):
    """A file of --deepspeed. "auto" leaves a value to the training flags."""

    zero_optimization: ZeroOptimization | None = None
    train_batch_size: Batch = None
    train_micro_batch_size_per_gpu: Batch = None
    gradient_accumulation_steps: Batch = None
    gradient_clipping: Annotated[float, Meta(ge=0, le=1e30)] | Auto | None = None
    bf16: Switch | None = None
    fp16: Switch | None = None
    optimizer: Part | None = None
    scheduler: Part | None = None
    sequence_parallel_size: Annotated[int, Meta(ge=1, le=1024)] | None = None
