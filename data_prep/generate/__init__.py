"""LLaVA's own way of making data: captions and boxes as text to a language model, which writes the conversations.

Liu et al., "Visual Instruction Tuning" (2023), section 3. The prompts are of our own, in prompts/*.txt.

    python -m data_prep generate --help
"""
