"""Records in, records out: split, mix, show."""
