"""Losses that compare a student with its teacher."""
