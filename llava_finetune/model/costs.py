"""What a loaded model costs, in words: load time, memory, tokens per second. evaluate, chat and serve print these.

print(loaded_line(loaded, "runs/mine", bits=4))
"""

from __future__ import annotations

from typing import Any


def loaded_line(loaded: Any, model: str, bits: int = 16) -> str:
    """`loaded runs/mine in 1.2 s: 4-bit, bfloat16 on cuda, 3.90 GB of weights, ..., template vicuna_v1`."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    quantized = "" if bits == 16 else f"{bits}-bit, "
    return (
        f"loaded {model} in {loaded.seconds:.1f} s: {quantized}{dtype} on {loaded.device}, "
        f"{memory_text(loaded)}, template {loaded.template}"
    )


def memory_text(loaded: Any) -> str:
    """Bytes of the weights as they lie in memory, and what GPU or process hold with them."""
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters()) / 1e9
    if loaded.device.type == "cuda":
        import torch

        return f"{size:.2f} GB of weights, {torch.cuda.max_memory_allocated(loaded.device) / 1e9:.2f} GB held at most"
    import psutil

    return f"{size:.2f} GB of weights, {psutil.Process().memory_info().rss / 1e9:.2f} GB held by the process"


def rate_text(tokens: int, seconds: float) -> str:
    """`12.3 tokens/s`."""
    return f"{tokens / max(seconds, 1e-9):.1f} tokens/s"
