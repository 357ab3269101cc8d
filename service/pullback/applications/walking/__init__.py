"""Walks along latent axes: expressions, motion, equal-change steps, pictures, hints and scores."""
