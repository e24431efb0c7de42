"""Losses on the predictions for one domain."""
