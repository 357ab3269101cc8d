"""One sweep: what it is, how it is divided, and how one shard of it is computed.

- `plan`: from a job to identity, shards, memory and time. `identity`: the sweep's id and provenance, and whether a
  store belongs to the job. `inputs`, `parts`: what decides the numbers.
- `latents`: the latent code of each sample.
- `worker`: computes whole shards. `tasks`: what it is given, and the kinds of failures.
- `preflight`: whether the store's location can be written to. `shard_timing`: the time to write and commit a shard.

`driving` runs a sweep.
"""
