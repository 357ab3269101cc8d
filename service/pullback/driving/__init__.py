"""Running sweeps: which worker computes what, what is committed when, and who drives a sweep.

- `run`: the driver. `schedule`: which worker computes what next, and the failure policy. `storage_backoff`: pauses of
  workers whose results the storage refuses.
- `pool_protocol`: the driver's interface to its workers, and the pool of `--serial`. `cluster` has that of Ray.
- `record`, `session`, `sidecar_files`: what a driver writes beside its sweep: record, journal, cancel requests.
- `states`: the table of states. `sweep_state`, `remote_drivers`, `control`: the state of a sweep for other processes,
  and their requests to cancel it.
- `background`, `queue`, `last_words`: drivers in the background, one at a time, and why one ended.
"""
