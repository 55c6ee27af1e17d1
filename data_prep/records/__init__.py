"""Records and pictures: read, named, written."""
