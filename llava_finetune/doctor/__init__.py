"""Is this machine ready, and is this model whole."""
