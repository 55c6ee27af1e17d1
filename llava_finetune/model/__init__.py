"""Models built, loaded, adapted and saved.

To train: `building`, with `adapters`, `trained_parts`, `towers` and `language_models`. To answer: `loaded` decides what
a folder is, `loading` reads it. The forward pass: `modeling` has the loss, `splice` puts pictures in, `forward_parts`
goes on where memory ran out. What is written: `saving`.
"""
