"""Losses that look at two batches of features."""
