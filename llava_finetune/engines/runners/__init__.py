"""Programs that run with an engine's own Python, where this project is not installed: each file stands alone."""
