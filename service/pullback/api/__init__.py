"""The HTTP service over a folder of sweeps, and its client.

`server` runs it, `app` puts it together, `guard` stands before every route, `routes` and `service` answer, as `answers`
describes. `catalog` finds and opens sweeps, `tables` encodes arrays, `analyses` has analyses made, `jobs` reads what is
submitted and `backend` runs it. Reads need a store only; no cluster.
"""
