"""RMSNorms that torch's kernel computes as they are, by `model_type`: for the kernel, and for the plan without torch.

NORMS["qwen3"]      # "Qwen3RMSNorm"
"""

NORMS = {
    "llama": "LlamaRMSNorm",
    "mistral": "MistralRMSNorm",
    "qwen2": "Qwen2RMSNorm",
    "qwen3": "Qwen3RMSNorm",
    "phi3": "Phi3RMSNorm",
}
"""transformers' layers that compute weight * x / sqrt(mean(x * x) + variance_epsilon); Gemma's weights begin at 0."""
