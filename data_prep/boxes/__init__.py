"""Boxes in texts and in pictures: read, written on another scale, moved along with the picture, compared, drawn."""
