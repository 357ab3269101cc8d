"""Inversion: the objective, the starts, the solvers and the pictures; `pullback.applications.inversion` runs them."""
