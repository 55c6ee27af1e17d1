"""An adapter merged into its base, and verified."""
