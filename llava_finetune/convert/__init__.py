"""Conversion between upstream's layout and llava-hf's: names, configs, tokenizers, chat templates, weights in a stream.

Why: transformers, vLLM, SGLang and llama.cpp read the llava-hf layout, training reads upstream's.
`llava_finetune.export` and `llava_finetune.importing` are the commands; nothing here reads the command line.
"""
