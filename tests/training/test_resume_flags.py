"""Every flag of ours decides a run's numbers, and a resume compares it, or is named here as one that does not."""

from __future__ import annotations

import dataclasses

import transformers

from llava_finetune.config.training_flags import DataArguments, ModelArguments, TrainingArguments
from llava_finetune.training.resume import MODEL, TRAINING

COMPARED_OTHERWISE = {
    "model_name_or_path", "vision_tower", "data_path", "replay", "augment", "independent_turns", "image_aspect_ratio",
    "share_pictures", "share_among",  # together they are `sharing`
}  # fmt: skip
START_ALONE = {"pretrain_mm_mlp_adapter", "init_lora", "lora_weight_path"}
"""What the first step began with; a checkpoint has its own weights."""
SAME_NUMBERS = {
    "fused_norms",  # on a GPU in 16 bit it rounds once where transformers rounds twice
    "unpadded", "fast_lora", "loss_chunk", "cache_features", "cache_gb", "trim_heap", "profile",
    "mpt_attn_impl", "lazy_preprocess", "is_multimodal", "image_folder", "replay_image_folder", "remove_unused_columns",
    "max_pixels", "check_data", "override_config", "cache_dir",
}  # fmt: skip
WATCHING = {
    "eval_data_path", "eval_image_folder", "eval_limit", "eval_max_new_tokens", "probe_data_path", "probe_image_folder",
    "hallucination_data_path", "hallucination_image_folder", "early_stopping_patience", "result", "resume",
    "resume_changed", "logging_steps", "logging_nan_inf_filter", "save_total_limit",
}  # fmt: skip


def test_every_flag_of_ours_is_compared_or_changes_no_number() -> None:
    inherited = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    own = set(TrainingArguments.__annotations__) | (set(TRAINING) & inherited)
    names = own.union(*({field.name for field in dataclasses.fields(kind)} for kind in (ModelArguments, DataArguments)))
    groups = [set(MODEL), set(TRAINING), COMPARED_OTHERWISE, START_ALONE, SAME_NUMBERS, WATCHING]
    sorted_out = set().union(*groups)
    assert names == sorted_out, f"in no group: {sorted(names - sorted_out)}; no flag: {sorted(sorted_out - names)}"
    assert sum(map(len, groups)) == len(sorted_out), "a flag stands in two groups"
