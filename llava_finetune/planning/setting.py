"""How a model is trained, for the arithmetic of memory: mode, batch, ZeRO stage, LoRA, lengths.

Setting("lora", num_gpus=2, batch=4, stage=2)
"""

from dataclasses import dataclass

LORA_RANK = 128
"""The LoRA rank where none is given: what scripts/finetune_lora.sh and finetune_qlora.sh train. `llava-finetune train`
without them keeps upstream's 64."""


@dataclass(frozen=True)
class Setting:
    """How a model is trained; `mode` is pretrain, full, lora or qlora, `stage` 0 (no ZeRO), 2 or 3.

    `mask_bytes` of an element under dropout is a GPU's; on a CPU 4. `accumulated`: a step has several batches, so that
    gradients lie beside activations. `shared`, with --share_pictures: (records of a batch, different pictures in it).
    `base_dtype` fp8: the frozen linear weights of the language model in e4m3. `fused_norms`: the flag of that name.
    """

    mode: str
    num_gpus: int = 1
    batch: int = 1
    checkpointing: bool = True
    stage: int = 2
    offload: bool = False
    bits: int = 4
    base_dtype: str = "auto"
    rank: int = LORA_RANK
    dropout: float = 0.05
    targets: str = "language"
    text_tokens: int = 256
    supervised_tokens: int = 64
    images: int = 1
    max_length: int = 2048
    weight_bytes: int = 2
    mask_bytes: int = 1
    accumulated: bool = True
    shared: tuple[tuple[int, int], ...] = ()
    fused_norms: bool = True

    @property
    def num_pictures(self) -> int:
        """Records of a batch that bring pictures of their own: all, unless they share them."""
        return dict(self.shared).get(self.batch, self.batch)

    @property
    def base_bits(self) -> int:
        """Bits of the language model's linear weights."""
        return self.bits if self.mode == "qlora" else 16

    @property
    def in_fp8(self) -> bool:
        """Whether the frozen linear weights are kept in e4m3: only what is frozen can be."""
        return self.base_dtype == "fp8" and self.mode in ("lora", "pretrain")

    @property
    def wide_stream(self) -> bool:
        """Whether the hidden states are fp32: peft casts a quantised base's other weights so; only ZeRO undoes it."""
        return self.base_bits != 16 and self.stage < 2

    @property
    def fast_lora(self) -> bool:
        """Whether LoRA's layers run as one function (llava_finetune/kernels/fast_lora.py) and not as peft's several."""
        return self.mode == "lora" and self.stage < 3

    @property
    def stream_bytes(self) -> int:
        """Bytes of one value of the hidden states."""
        return 4 if self.wide_stream else self.weight_bytes

    @property
    def fast_mask_bytes(self) -> int:
        """Bytes of an element's dropout mask in fast LoRA: a GPU's, else as wide as the element."""
        return 1 if self.mask_bytes == 1 else self.weight_bytes

    @property
    def has_adapters(self) -> bool:
        """Whether LoRA adapters are trained."""
        return self.mode in ("lora", "qlora")
