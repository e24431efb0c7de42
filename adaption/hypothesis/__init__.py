"""Losses on the disagreement of two task heads."""
