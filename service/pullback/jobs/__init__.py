"""Analyses and applications: jobs that compute results from a sweep or a generator. Plan, run and monitor them.

`pullback.sweep` plans the job of a sweep and `pullback.driving` runs it. This package does the same for the two other
kinds of jobs, with the same kinds of identity, lock, record, journal, cancel requests and exit codes.
"""
