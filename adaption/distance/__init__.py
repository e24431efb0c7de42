"""Distances of two domains, with their uncertainty."""
