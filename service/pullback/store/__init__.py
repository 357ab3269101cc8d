"""The store of sweeps: one Icechunk repository of Zarr v3 arrays for each sweep, in a folder or an object store.

What is stored:

- `schema`: the arrays and one shard's record. `root`: the root group's attributes. `arrays`: the Zarr arrays.
- `counts`: counts of samples, ready for JSON.

Where:

- `location`: addresses of sweeps and the storage behind them. `objects`: listing folders and prefixes, small objects.
- `folders`: folders and files that appear whole or not at all. `folder_locks`: locks on folders in use.
- `lock`: the driver lock. `durability`: syncing files to the disk.

Reading and writing:

- `opening`: opening repositories. `commits`: commits on top of the last one. `tip`, `object_tip`: which commit to read
  if the last one is damaged.
- `creation`: creating a store. `shard_writing`: a worker's writes. `repository`: the driver's merges and commits.
- `reader`: reading one snapshot. `history`: listing snapshots. `chunks`, `bulk`: reading many chunks.
- `xarray_backend`: lazy variables of datasets.
- `export`: Zarr, netCDF and CSV. `artifacts`: results computed from a sweep. `code_files`: latent codes from files.

Damage:

- `failures`: distinguishing damage from temporary errors. `audit`: finding damage. `readback`: a quick check of
  chunk files. `odd_files`: pipes and devices in a repository.
- `maintenance`: repair and garbage collection. `recovery`: going back to a whole commit.

Nothing is imported here, so that `import pullback` works without zarr and icechunk.
"""
