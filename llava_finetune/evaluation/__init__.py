"""Questions answered and scored."""
