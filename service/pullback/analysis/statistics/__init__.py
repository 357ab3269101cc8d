"""Statistics of a sweep, one module each: arrays in, numbers with intervals out."""
