"""The small base model of the quickstart, built from parts that packages carry."""
