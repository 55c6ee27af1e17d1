"""A model of upstream's layout as the two GGUF files of llama.cpp: language model, and tower with projector.

Why: llama.cpp, Ollama and what is built on them read nothing else, and llama.cpp's own scripts do not read our folders.
`language_model` writes the first file, `image_encoder` the other (llama.cpp calls it mmproj).
`llava-finetune export MODEL OUT --format gguf` is the command; `export.export_gguf` runs it.
"""
