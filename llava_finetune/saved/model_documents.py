"""The JSON files of a model's folder: a type for each kind.

Fields that no type names are left alone, for models of other makers carry many.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Width = Annotated[int, Meta(ge=1, le=2**20)]
Layers = Annotated[int, Meta(ge=1, le=2**12)]
Rows = Annotated[int, Meta(ge=1, le=2**25)]
Side = Annotated[int, Meta(ge=1, le=2**13)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
TokenId = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Sides = Side | list[Side] | dict[str, Side | None]
Grid = Annotated[list[Annotated[list[Side], Meta(min_length=2, max_length=2)]], Meta(max_length=1000)]
Text = str | None
Dtype = (
    Literal["auto", "float64", "float32", "float16", "bfloat16", "torch.float32", "torch.float16", "torch.bfloat16"]
    | None
)
Flag = bool | None


class Sizes(Struct):
    """The sizes of a language model or a tower."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    vocab_size: Rows | None = None
    max_position_embeddings: Rows | None = None
    projection_dim: Count | None = None
    image_size: Side | None = None
    patch_size: Side | None = None
    num_channels: Annotated[int, Meta(ge=1, le=16)] | None = None
    rms_norm_eps: Positive | None = None
    layer_norm_eps: Positive | None = None
    initializer_range: Annotated[float, Meta(ge=0, le=1e3)] | None = None
    rope_theta: Positive | None = None
    attention_dropout: Share | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    hidden_act: Text = None
    model_type: Text = None
    architectures: list[str] | None = None
    dtype: Dtype = None
    torch_dtype: Dtype = None
    embed_dim: Width | None = None
    mlp_ratio: Annotated[float, Meta(gt=0, le=1e3)] | None = None
    use_swiglu_ffn: Flag = None
    final_logit_softcapping: Positive | None = None
    num_labels: Rows | None = None
    id2label: dict[str, Any] | None = None
    label2id: dict[str, Any] | None = None
    layer_types: list[str] | None = None
    attention_bias: Flag = None
    mlp_bias: Flag = None
    sliding_window: Rows | None = None
    tie_word_embeddings: Flag = None
    use_cache: Flag = None
    bos_token_id: TokenId | list[TokenId] | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | list[TokenId] | None = None


class Perceiver(Struct):
    """What makes few tokens of a picture's many, in IDEFICS and Idefics2."""

    resampler_n_latents: Width | None = None
    resampler_depth: Layers | None = None
    resampler_n_heads: Width | None = None
    resampler_head_dim: Width | None = None
    num_key_value_heads: Width | None = None


class Config(Sizes):
    """config.json: a language model's, a tower's, upstream's LLaVA or llava-hf's."""

    text_config: Sizes | None = None
    vision_config: Sizes | None = None
    perceiver_config: Perceiver | None = None
    scale_factor: Annotated[int, Meta(ge=1, le=64)] | None = None
    cross_layer_interval: Layers | None = None
    additional_vocab_size: Annotated[int, Meta(ge=0, le=2**25)] | None = None
    multimodal_projector_bias: Flag = None
    projector_hidden_act: Text = None
    image_token_index: TokenId | None = None
    image_token_id: TokenId | None = None
    image_grid_pinpoints: Grid | str | None = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Text = None
    mm_vision_tower: Text = None
    mm_projector_type: Text = None
    mm_hidden_size: Width | None = None
    mm_vision_select_layer: Annotated[int, Meta(ge=-4096, le=4096)] | None = None
    mm_vision_select_feature: Literal["patch", "cls_patch"] | None = None
    mm_patch_merge_type: Literal["flat", "spatial", "spatial_unpad"] | None = None
    mm_use_im_start_end: Flag = None
    mm_use_im_patch_token: Flag = None
    image_aspect_ratio: Literal["square", "pad", "anyres"] | None = None
    tokenizer_padding_side: Text = None
    tokenizer_model_max_length: Rows | None = None
    unfreeze_mm_vision_tower: Flag = None
    quantization_config: dict[str, Any] | None = None
    auto_map: dict[str, Any] | None = None


class GenerationConfig(Struct):
    """generation_config.json."""

    temperature: Annotated[float, Meta(ge=0, le=1e6)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    max_length: Count | None = None
    max_new_tokens: Count | None = None
    do_sample: Flag = None
    bos_token_id: TokenId | list[TokenId] | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | list[TokenId] | None = None


Token = str | dict[str, Any] | None


class TokenizerConfig(Struct):
    """tokenizer_config.json. `model_max_length` is 10^30 where a tokenizer has no limit."""

    tokenizer_class: Text = None
    model_max_length: int | float | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    bos_token: Token = None
    eos_token: Token = None
    unk_token: Token = None
    pad_token: Token = None
    additional_special_tokens: list[str | dict[str, Any]] | None = None
    extra_special_tokens: dict[str, str | dict[str, Any]] | list[str | dict[str, Any]] | None = None
    chat_template: str | list[dict[str, str]] | dict[str, str] | None = None
    padding_side: Text = None
    add_bos_token: Flag = None
    add_eos_token: Flag = None
    legacy: Flag = None
    sp_model_kwargs: dict[str, Any] | None = None


SpecialTokens = dict[str, str | dict[str, Any] | list[str | dict[str, Any]] | None]
AddedTokens = dict[str, Annotated[int, Meta(ge=0, le=2**25)]]


class Tokenizer(Struct):
    """tokenizer.json of the tokenizers library."""

    model: dict[str, Any]
    added_tokens: list[dict[str, Any]] | None = None


class Preprocessor(Struct):
    """preprocessor_config.json: how a picture becomes pixels."""

    size: Sides | None = None
    crop_size: Sides | None = None
    image_mean: Annotated[list[Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(min_length=3, max_length=3)] | None = None
    image_std: Annotated[list[Positive], Meta(min_length=3, max_length=3)] | None = None
    rescale_factor: Positive | None = None
    resample: Annotated[int, Meta(ge=0, le=5)] | None = None
    do_resize: Flag = None
    do_center_crop: Flag = None
    do_rescale: Flag = None
    do_normalize: Flag = None
    do_convert_rgb: Flag = None
    do_pad: Flag = None
    image_processor_type: Text = None
    feature_extractor_type: Text = None
    processor_class: Text = None
    image_grid_pinpoints: Grid | str | None = None


class Processor(Struct):
    """processor_config.json of llava-hf's layout."""

    image_processor: Preprocessor | None = None
    patch_size: Side | None = None
    vision_feature_select_strategy: Text = None
    image_token: Token = None
    chat_template: str | list[dict[str, str]] | dict[str, str] | None = None
    num_additional_image_tokens: Count | None = None
    image_seq_len: Width | None = None
    num_image_tokens: Width | None = None


class AdapterConfig(Struct):
    """adapter_config.json of peft; LoRA is the only kind that is trained, merged and loaded here."""

    peft_type: Literal["LORA"] | None = None
    task_type: Text = None
    base_model_name_or_path: Text = None
    r: Annotated[int, Meta(ge=1, le=2**16)] | None = None
    lora_alpha: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    lora_dropout: Share | None = None
    bias: Literal["none", "all", "lora_only"] | None = None
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, Annotated[int, Meta(ge=1, le=2**16)]] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_dora: Flag = None
    use_rslora: Flag = None
    fan_in_fan_out: Flag = None
    inference_mode: Flag = None
