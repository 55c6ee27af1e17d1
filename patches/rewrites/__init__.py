"""One file per patch; the order is in patches/series."""
