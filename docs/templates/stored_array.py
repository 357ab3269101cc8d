"""A stored array, as an example: the norm of each latent code.

TEMPLATE: move `ARRAY` into `SHARD_ARRAYS` of service/pullback/store/schema.py, add a field of the same name to
`ShardRecord` there, and call `fill` where service/pullback/sweep/worker.py makes a record.
"""

import numpy as np
from numpy.typing import NDArray

from pullback.store.schema import REVISION, ArraySchema

ARRAY = ArraySchema(
    "latent_norm",  # TEMPLATE: a name that is not the name of a dimension
    ("sample",),  # TEMPLATE: `sample` or `shard` first; then of component, latent_dim, latent_column
    "float64",
    "norm of the latent code",  # TEMPLATE: the long name, in the present tense and without a full stop
    "latent unit",  # TEMPLATE: units; "1" for pure numbers, "s" for seconds
    # TEMPLATE: write the number itself in schema.py. Sweeps of earlier revisions lack the array and read it as `fill`,
    # here NaN: every reader must work without it.
    since=REVISION + 1,
)


def fill(latents: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the values of one shard for its latent codes [m, n]: the array's dtype, [m, ...]."""
    return np.linalg.norm(latents.astype(np.float64), axis=1)
