"""The flags of training, each a field with its type, its default and its help."""

from __future__ import annotations

from dataclasses import dataclass, field

import transformers

from llava_finetune.planning.activations import LOSS_CHUNK
from llava_finetune.planning.steps import warmup_of


@dataclass
class ModelArguments:
    """Which model, and how it is put together. None: as the base says (a plain language model: upstream's default)."""

    model_name_or_path: str = field(metadata={"help": "base: a language model (stage 1) or a LLaVA, hub id or folder"})
    version: str | None = field(default=None, metadata={"help": "conversation template, e.g. v1, plain, chatml_direct"})
    freeze_backbone: bool = field(default=False, metadata={"help": "freeze the language model"})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "train the projector only (stage 1)"})
    vision_tower: str | None = field(default=None, metadata={"help": "CLIP, SigLIP or DINOv2, hub id or folder"})
    mm_vision_select_layer: int | None = field(default=None, metadata={"help": "hidden layer of the tower to use"})
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "mm_projector.bin of stage 1"})
    mm_projector_type: str | None = field(default=None, metadata={"help": "linear, mlp2x_gelu, ..."})
    mm_use_im_start_end: bool | None = field(default=None, metadata={"help": "wrap pictures in start and end tokens"})
    mm_use_im_patch_token: bool | None = field(default=None, metadata={"help": "add the <im_patch> token"})
    mm_patch_merge_type: str | None = field(default=None, metadata={"help": "flat, or spatial_unpad for 1.6"})
    mm_vision_select_feature: str | None = field(default=None, metadata={"help": "patch or cls_patch"})
    attn_implementation: str = field(
        default="auto", metadata={"help": "auto, sdpa, eager or flash_attention_2; auto is sdpa, eager on CPU"}
    )
    override_config: bool = field(default=False, metadata={"help": "let flags contradict the base's config"})


@dataclass
class DataArguments:
    """What to train on."""

    data_path: str = field(metadata={"help": "records: human/gpt .json or .jsonl"})
    image_folder: str | None = field(default=None, metadata={"help": "folder that the records' pictures are named in"})
    lazy_preprocess: bool = field(default=True, metadata={"help": "accepted for upstream's scripts; always lazy"})
    is_multimodal: bool = field(default=True, metadata={"help": "accepted for upstream's scripts"})
    image_aspect_ratio: str | None = field(
        default=None, metadata={"help": "square, pad or anyres; default: the base's"}
    )
    eval_data_path: str | None = field(default=None, metadata={"help": "held-out records, scored while training"})
    eval_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    eval_limit: int = field(default=500, metadata={"help": "questions answered per evaluation, 0 for all"})
    eval_max_new_tokens: int = field(default=64, metadata={"help": "tokens per generated answer"})
    probe_data_path: str | None = field(
        default=None, metadata={"help": "general questions, scored at the same moments: shows what is forgotten"}
    )
    probe_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    hallucination_data_path: str | None = field(
        default=None, metadata={"help": "questions of data_prep probes, scored at the same moments: does it say yes"}
    )
    hallucination_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    replay: str | None = field(
        default=None, metadata={"help": "FILE:SHARE, general records mixed in, e.g. general.json:0.1 for a tenth"}
    )
    replay_image_folder: str | None = field(default=None, metadata={"help": "default: --image_folder"})
    independent_turns: str = field(
        default="auto",
        metadata={
            "help": "learn each question of a record as if asked alone: True, False, or auto (records that say "
            'so with "independent_turns": true)'
        },
    )
    augment: str | None = field(
        default=None,
        metadata={"help": "vary pictures as far as answers stay true: True, or some of crop,flip,light,colour"},
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "largest picture that is opened, in pixels; default: 89478485"}
    )
    check_data: bool = field(default=True, metadata={"help": "check every record and picture before training"})


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' arguments with upstream's additions and defaults that tell the truth."""

    cache_dir: str | None = field(default=None, metadata={"help": "where hub downloads are kept"})
    optim: str = field(
        default="adamw_torch_fused", metadata={"help": "optimizer; fused: one pass over memory, nothing kept beside it"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "kept off: batches carry pictures"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "freeze the projector"})
    mpt_attn_impl: str | None = field(default=None, metadata={"help": "accepted for upstream's scripts; MPT is not"})
    model_max_length: int | None = field(
        default=None, metadata={"help": "tokens per record, pictures counted; default: the base's, else 2048"}
    )
    dpo: bool = field(default=False, metadata={"help": "learn from records with `chosen` and `rejected` answers"})
    dpo_beta: float = field(default=0.1, metadata={"help": "DPO: smaller goes further from the reference"})
    dpo_label_smoothing: float = field(
        default=0.0, metadata={"help": "conservative DPO: share of the pairs that may be the wrong way round"}
    )
    dpo_length_normalised: bool = field(
        default=False, metadata={"help": "DPO by log-likelihoods per token; needs a larger beta, such as 5"}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "DPO: weight of the chosen answers' own loss beside, so that they stay likely"}
    )
    double_quant: bool = field(default=True, metadata={"help": "4-bit: quantise the quantisation statistics"})
    quant_type: str = field(default="nf4", metadata={"help": "4-bit data type: nf4 or fp4"})
    bits: int = field(default=16, metadata={"help": "16, 8 or 4: bits of the frozen base"})
    base_dtype: str = field(
        default="auto",
        metadata={"help": "fp8: the frozen base's linear layers in e4m3, half the bytes; Hopper, Ada"},
    )
    lora_enable: bool = field(default=False, metadata={"help": "train a LoRA adapter"})
    lora_r: int = field(default=64, metadata={"help": "LoRA rank"})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha"})
    lora_dropout: float = field(default=0.05, metadata={"help": "LoRA dropout"})
    lora_weight_path: str = field(default="", metadata={"help": "upstream's unused flag; the same as --init_lora"})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only"})
    lora_targets: str = field(
        default="language", metadata={"help": "language, language.attention, vision, projector (commas), or a regex"}
    )
    use_dora: bool = field(default=False, metadata={"help": "weight-decomposed LoRA"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(r)"})
    init_lora: str | None = field(default=None, metadata={"help": "adapter folder to continue from"})
    tune_vision_tower: bool = field(default=False, metadata={"help": "train the vision tower too"})
    vision_tower_lr: float | None = field(default=None, metadata={"help": "its learning rate; default: the run's"})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "projector's learning rate"})
    group_by_modality_length: bool = field(default=False, metadata={"help": "batch records of like length and kind"})
    group_by_real_length: bool = field(
        default=False, metadata={"help": "group by tokens, pictures counted, instead of upstream's count of words"}
    )
    unpadded: bool = field(
        default=True, metadata={"help": "run layers on real tokens only and gather pictures in one call; same loss"}
    )
    share_pictures: bool = field(
        default=False,
        metadata={
            "help": "records about the same picture in one batch, as one sequence that holds it once; same loss of each"
        },
    )
    share_among: int = field(
        default=0, metadata={"help": "records that are put together by --share_pictures; 0: a device's batch"}
    )
    fast_lora: bool = field(default=True, metadata={"help": "LoRA layers with fewer passes; same loss, same files"})
    fused_norms: bool = field(
        default=True, metadata={"help": "RMSNorm as one kernel, on a GPU; equal in fp32, in 16 bit closer to exact"}
    )
    loss_chunk: int = field(
        default=LOSS_CHUNK, metadata={"help": "taught tokens whose logits exist at one time, 0 for all; same loss"}
    )
    cache_features: str | None = field(
        default=None, metadata={"help": "folder that keeps a frozen tower's features from run to run; same loss"}
    )
    cache_gb: float = field(default=50.0, metadata={"help": "gigabytes that --cache_features may take"})
    trim_heap: bool = field(default=True, metadata={"help": "on CPU, give freed memory back every 50 steps"})
    profile: int = field(default=0, metadata={"help": "profile this many steps and say where the time goes"})
    resume: str = field(default="none", metadata={"help": "auto, none, or a checkpoint folder"})
    resume_changed: bool = field(default=False, metadata={"help": "go on although data or flags differ"})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "evaluations without a better metric before the run stops; 0: never"}
    )
    result: str = field(
        default="auto", metadata={"help": "best, last, or auto: best where --metric_for_best_model is given"}
    )
    logging_steps: float = field(default=1, metadata={"help": "steps between log lines"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "kept off: NaN is shown as NaN, and stops"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})

    @property
    def sharing(self) -> int:
        """Records that are put together so that those about the same pictures meet; 0: none are."""
        return (self.share_among or self.per_device_train_batch_size) if self.share_pictures else 0

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As transformers', but a share never takes the whole run, which would then train at rate 0 alone."""
        return warmup_of(self.warmup_steps, num_training_steps)
