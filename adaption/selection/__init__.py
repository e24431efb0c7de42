"""Scores by which to choose among adapted models, without a label of the target."""
