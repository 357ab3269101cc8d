"""Benchmarks: methods, scaling, the scheduler and GPUs, measured on the user's machine.

`metric` compares methods with each other and with the floor (plain forward passes). `scaling` measures sweeps with
several workers, `scheduler_simulation` simulates thousands of GPUs, and `gpu` checks one GPU. Each timed method runs in
its own process (`child`). Only `scaling` needs Ray and a store.
"""
