"""Weights of classes and samples, for a target that has only some of the source's classes."""
