"""The store of sweeps: one Icechunk repository of Zarr v3 arrays a sweep, in a local folder.

- `schema`: which arrays there are, and one shard's record. Knows numpy only.
- `folders`: folders that appear whole or not at all, and which paths are local.
- `lock`: one driver a sweep.
- `repository`: creating, writing and committing. The one module that owns Zarr's and Icechunk's quirks.
- `reader`: reading one snapshot, as `xarray.Dataset`, and exporting it as plain Zarr.
- `derived`: results computed from a sweep, kept beside it.

Nothing is imported here, so that `import pullback` works where zarr and icechunk are absent.
"""
