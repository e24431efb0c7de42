"""Losses on features together with the labels or predictions of both domains."""
