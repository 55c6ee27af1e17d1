"""Records become one batch: templates, label masks, pictures, layout."""
