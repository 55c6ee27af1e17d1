"""One converter per kind of source, and what they share."""
