"""Scores for choosing among adapted models without target labels."""
