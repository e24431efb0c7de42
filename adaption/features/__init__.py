"""Losses on two batches of features."""
