"""Weight files: the manifest, finding and fetching files, and reading them without running any code they contain.

- `manifest`: sources, the places that are searched, SHA-256. `fetching`, `downloading`, `pretrained_biggan`: getting
  files.
- `checkpoints`, `content`: a file as tensors and plain data. `networks`: the networks inside, and the choice of one.
- `torch_streams`, `pickle_data`, `pickled_networks`: torch's formats and pickles, read as data. `declared_sizes`: sizes
  are checked before anything is allocated.
- `file_kinds`: what an unreadable file seems to be, and advice.
"""
