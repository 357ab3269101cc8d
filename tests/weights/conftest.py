"""Fixtures of tests that look for weights."""

from weight_places import set_manifest, weight_places

__all__ = ["set_manifest", "weight_places"]
