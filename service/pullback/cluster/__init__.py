"""Everything that imports Ray: the pool of actors."""
