"""Metrics: their definitions, the registry that counts them, the collectors that fill it, and the text format."""
