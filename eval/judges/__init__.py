"""Judges: models that hear or read what came out, each a small class with `record()`, which says who it is."""
