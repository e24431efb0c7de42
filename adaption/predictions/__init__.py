"""Losses that look at the predictions for one domain."""
