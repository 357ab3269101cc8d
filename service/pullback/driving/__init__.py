"""Driving sweeps: the scheduler and its failure policy, the driver's record and log, cancel, background runs."""
