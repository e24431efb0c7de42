"""Losses with a domain discriminator."""
