"""Conversion between upstream's layout and llava-hf's: names, configs, tokenizers, chat templates, weights in a stream.

Why: transformers, vLLM, SGLang and llama.cpp read the llava-hf layout, training reads upstream's.
`export` and `importing` are the commands; nothing else here reads the command line.
"""
