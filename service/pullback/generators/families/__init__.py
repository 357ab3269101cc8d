"""Families of generators, one module each: the networks, their options, and how to read their files."""
