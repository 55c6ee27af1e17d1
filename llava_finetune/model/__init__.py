"""Models built, loaded, adapted and saved."""
