"""The HTTP service over a folder of sweeps, and its client.

The service:

- `server` runs it, `app` assembles it, and `service` holds its state and makes answers.
- `guard` checks every request before it reaches a route: `tokens`, `login` and `sessions` of browsers, `limits` of time
  and concurrency, `connections` of idle clients.

Routes and answers:

- `routes`, `statistics` and `result_jobs` define the routes. `selection` reads their query parameters; `following` and
  `journal` serve the state and the events of a driver.
- `answers` and `documents` are the models of the answers, `tables` encodes numbers, and `openapi` describes the rest.
- `problem_details` turns errors into answers, and `paths` removes the server's paths from them.

Work and measurements:

- `catalog` finds and opens sweeps, `job_requests` reads submitted jobs, and `backend` runs them.
- `analyses` computes analyses; `analysis_claims` prevents that two processes compute the same one.
- `observe` writes the audit log and counts requests; `sweep_metrics` has the gauges of sweeps.

`client` is the client. Reading needs only the store, no cluster.
"""
