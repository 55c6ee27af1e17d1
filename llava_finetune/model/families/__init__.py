"""Families of transformers' own classes, behind one interface: what each needs is one module of its own."""
