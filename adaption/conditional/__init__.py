"""Losses that look at features together with the labels or predictions of both domains."""
