"""Shared by the style-based families: mapping networks, resampling, noise, and the spaces Z, W and W+."""
