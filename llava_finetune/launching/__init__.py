"""One command to ranks on one or many machines, and why they ended."""
