"""8-bit matrix products that do not keep inputs for a gradient that nobody asks for.

bitsandbytes keeps the input of every 8-bit product for the weight's gradient, which a frozen base never asks for. It
keeps them on the autograd context and not as saved tensors, so gradient checkpointing cannot drop them: the inputs of
every linear of every layer stay until the backward pass. tests/planning/test_memory.py measures without them.
"""

from __future__ import annotations

import functools
from typing import Any


def forget_inputs() -> None:
    """From here on an 8-bit product whose weight takes no gradient keeps no input. Calling it again changes nothing."""
    from bitsandbytes.autograd import _functions

    places: Any = ((_functions.MatMul8bitLt, "tensors", (None, None, None)), (_functions.MatMul8bitFp, "A", None))
    for function, kept, empty in places:
        if not hasattr(function.forward, "__wrapped__"):
            function.forward = staticmethod(_forgetting(function.forward, kept, empty))


def _forgetting(forward: Any, kept: str, empty: Any) -> Any:
    @functools.wraps(forward)
    def forgetting(context: Any, *arguments: Any, **keywords: Any) -> Any:
        output = forward(context, *arguments, **keywords)
        if not context.needs_input_grad[1]:
            setattr(context, kept, empty)
        return output

    return forgetting
