"""Will it fit: bytes from shapes alone, and the settings that fit a card."""
