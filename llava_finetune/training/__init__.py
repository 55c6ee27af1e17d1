"""One run, top to bottom: the loop, what watches it, and how it ends and goes on."""
