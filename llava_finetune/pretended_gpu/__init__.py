"""A GPU that is pretended: a whole training on `cuda:0` with fake tensors, on any CPU, without weights.

Every operator, dtype, device, allocation and wait of the real driver is seen at the real model's size, and no number is
computed. `llava-finetune plan --exact` and tests/pretended_gpu stand on it; docs/pretended-gpu.md says what it cannot
show.

    python -m llava_finetune.pretended_gpu '{"model": "liuhaotian/llava-v1.5-7b", "mode": "lora", "batch": 4}'
"""
