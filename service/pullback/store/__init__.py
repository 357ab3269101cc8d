"""The store of sweeps: one Icechunk repository of Zarr v3 arrays a sweep, in a folder or in an object store.

- `schema`: which arrays there are, and one shard's record. Knows numpy only.
- `folders`: folders that appear whole or not at all.
- `location`: addresses of sweeps, and the storage behind them.
- `lock`: one driver a sweep, where it is a folder.
- `opening`: opening repositories, reading from and committing to them; what Zarr and Icechunk raise ends there.
- `objects`: what is inside a folder or a prefix, and small objects beside sweeps.
- `repository`: creating, writing and committing.
- `reader`: reading one snapshot, as `xarray.Dataset`, and exporting it as plain Zarr.
- `derived`: results computed from a sweep, kept beside it.
- `audit`, `upkeep`: finding damage; giving damaged shards up, and removing garbage.

Nothing is imported here, so that `import pullback` works where zarr and icechunk are absent.
"""
