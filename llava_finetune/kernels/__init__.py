"""Same numbers with less time and memory: LoRA, attention, loss and layers in fewer passes."""
