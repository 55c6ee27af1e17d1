"""Faster decoder layers at equal loss: torch.compile, and Liger's kernels where they are installed.

The switches are transformers' own. Its --torch_compile would compile the whole model again for every batch's layout:
here the decoder layers alone are compiled, once for all lengths. Its --use_liger_kernel knows models by their type and
passes over LLaVA's in silence: here Liger's norms, SwiGLU and rotary positions are put into the layers. Head and loss
stay this project's, which run on taught tokens alone.

    for line in kernels.apply(model): print(line)
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch

from llava_finetune.errors import UsageError


@dataclass(frozen=True)
class LayerKernels:
    """What a run wants for its decoder layers; `backend` None: nothing is compiled."""

    liger: bool = False
    backend: str | None = None
    mode: str | None = None

    def require_usable(self, bits: int, zero_stage: int) -> None:
        """Raise UsageError, with the reason, for what this machine or this kind of run cannot do."""
        compiling, liger = "--torch_compile True", "--use_liger_kernel True"
        if self.backend and self.liger:
            raise UsageError(f"{compiling} contradicts {liger}: both replace the same operations")
        if self.backend and (bits != 16 or zero_stage == 3):
            what = f"--bits {bits}" if bits != 16 else "ZeRO-3"
            remedy = f"leave {what} out" if bits != 16 else "take ZeRO-2 (DEEPSPEED_CONFIG=zero2)"
            raise UsageError(
                f"{compiling} with {what}: weights that are unpacked for each call end every graph; {remedy}, or do "
                "not compile"
            )
        if self.backend and self.backend not in (known := torch._dynamo.list_backends(exclude_tags=())):
            raise UsageError(
                f"--torch_compile_backend {self.backend}: no backend of torch; there are {', '.join(known)}"
            )
        if self.liger and importlib.util.find_spec("liger_kernel") is None:
            raise UsageError(f"{liger}: Liger is not installed; pip install -e '.[gpu]'")
        if self.liger and not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
            raise UsageError(f"{liger}: Liger's kernels are written in Triton and need a GPU; leave it out")

    def apply(self, model: Any) -> list[str]:
        """Put the kernels into a model's decoder layers; a sentence for each."""
        said = []
        if self.liger:
            use_liger(model)
            said.append("Liger's norms, SwiGLU and rotary positions in every layer (--use_liger_kernel)")
        if self.backend:
            compile_layers(model, self.backend, self.mode)
            said.append(f"decoder layers compiled by {self.backend} at their first step (--torch_compile)")
        return said


def asked_for(training: Any) -> LayerKernels:
    """transformers' switches as ours."""
    backend = training.torch_compile_backend if training.torch_compile else None
    return LayerKernels(bool(training.use_liger_kernel), backend, training.torch_compile_mode)


def use_liger(model: Any) -> None:
    """Liger's kernels in a LLaVA's decoder layers, adapters or not."""
    from liger_kernel import transformers as liger

    put_in = liger.apply_liger_kernel_to_llama
    if "mistral" in model.config.model_type:
        put_in = liger.apply_liger_kernel_to_mistral
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    put_in(model=base, cross_entropy=False, fused_linear_cross_entropy=False)


def compile_layers(model: Any, backend: str, mode: str | None = None) -> None:
    """Compile each decoder layer where it stands: names and saved files stay, all lengths share one compilation."""
    for layer in model.get_model().layers:
        layer.compile(backend=backend, mode=mode, dynamic=True)
