"""The training command line, checked, and the precision that the hardware has."""
