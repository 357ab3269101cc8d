"""The parts of gradient-free search: objectives, the feasible set, coordinates from a metric, and searchers."""
