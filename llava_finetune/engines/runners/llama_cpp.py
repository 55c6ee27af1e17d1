"""Serve a GGUF model with llama.cpp's engine until standard input ends; the address is printed as one JSON line.

python llama_cpp.py '{"model": "model-f16.gguf", "mmproj": "mmproj-f16.gguf", "context": 2048, "threads": 1}'
"""

import json
import sys

import xllamacpp


def main() -> None:
    """Load both files, print the address, wait."""
    wanted = json.loads(sys.argv[1])
    parameters = xllamacpp.CommonParams()
    parameters.model.path = wanted["model"]
    parameters.mmproj.path = wanted["mmproj"]
    parameters.n_ctx = wanted["context"]
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = wanted["threads"]
    parameters.sampling.temp = 0.0
    parameters.warmup = False
    parameters.verbosity = 1
    server = xllamacpp.Server(parameters)
    print(json.dumps({"url": server.listening_address, "version": f"xllamacpp {xllamacpp.__version__}"}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
