"""Benchmarks: methods timed against each other, and against the least that any method must do, on the user's machine.

Needs neither Ray nor a store. `metric` is the way in; every measurement is made in a process of its own (`child`).
"""
