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


class RunManifest(Struct):
    """run.json: what a run was called with."""

    arguments: dict[str, Any] | None = None
    command: list[str] | None = None
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


Auto = Literal["auto"]
Batch = Annotated[int, Meta(ge=1, le=2**31 - 1)] | Auto | None


class ZeroOptimization(Struct):
    """How DeepSpeed shares a model among ranks."""

    stage: Annotated[int, Meta(ge=0, le=3)] | None = None
    offload_optimizer: dict[str, Any] | None = None
    offload_param: dict[str, Any] | None = None
    reduce_bucket_size: float | Auto | None = None
    allgather_bucket_size: float | Auto | None = None


class DeepSpeedConfig(Struct):
    """A file of --deepspeed. "auto" leaves a value to the training flags."""

    zero_optimization: ZeroOptimization | None = None
    train_batch_size: Batch = None
    train_micro_batch_size_per_gpu: Batch = None
    gradient_accumulation_steps: Batch = None
    gradient_clipping: Annotated[float, Meta(ge=0, le=1e30)] | Auto | None = None
    bf16: dict[str, Any] | None = None
    fp16: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
