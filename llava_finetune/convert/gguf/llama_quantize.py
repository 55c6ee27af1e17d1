"""llama.cpp's own quantisation, called in its library: llama_quantize.py SOURCE TARGET TYPE, as `llama-quantize` is.

Runs with the Python of build/engines/llama-quantize, where this project is not installed: it stands alone.
"""

import sys

from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize

# `llama_ftype` of llama.h, whose numbers never change: they stand in files.
FTYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}


def main() -> None:
    """Write TARGET. Raises RuntimeError, with what the library says on standard error, where it cannot."""
    source, target, kind = sys.argv[1:]
    parameters = LlamaModelQuantizeParams()
    parameters.ftype = FTYPES[kind]
    model_quantize(source, target, parameters)


if __name__ == "__main__":
    main()
