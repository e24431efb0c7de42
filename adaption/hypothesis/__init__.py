"""Losses that play task heads against each other."""
