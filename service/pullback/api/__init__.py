"""The HTTP service over a folder of sweeps, and its client.

- `server` runs the service, `app` assembles it, and `guard` checks every request before it reaches a route.
- `routes` and `result_jobs` define the routes. `answers` and `documents` are the models of the answers, `tables`
encodes
  numbers, and `openapi` describes the rest.
- `catalog` finds and opens sweeps, `job_requests` reads submitted jobs, `backend` runs them, and `analyses` computes
  analyses.

Reading needs only the store, no cluster.
"""
