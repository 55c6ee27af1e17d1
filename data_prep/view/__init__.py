"""Records as pages, and as the model sees them."""
