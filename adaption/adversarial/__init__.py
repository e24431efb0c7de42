"""Losses that ask a domain discriminator."""
