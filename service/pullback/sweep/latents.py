"""Sampling latent codes.

Invariant: randomness belongs to the sample's index. Code i is drawn from `SeedSequence(seed, spawn_key=(i,))` in
float64 on the CPU and cast once, so no shard size, batch, device or number of workers changes a latent.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pullback.spec import SamplesSpec


def sample_latents(samples: SamplesSpec, indices: Iterable[int], latent_dim: int) -> NDArray[np.float32]:
    """The latent codes of the given sample indices.

    Args:
        samples: the distribution and its seed.
        indices: which samples.
        latent_dim: n.

    Returns:
        Codes [len(indices), n] float32, N(0, scale² I).
    """
    codes = [_draw(samples, index, latent_dim) for index in indices]
    return np.stack(codes) if codes else np.empty((0, latent_dim), np.float32)


def _draw(samples: SamplesSpec, index: int, latent_dim: int) -> NDArray[np.float32]:
    stream = np.random.default_rng(np.random.SeedSequence(samples.seed, spawn_key=(index,)))
    code: NDArray[np.float32] = (samples.scale * stream.standard_normal(latent_dim)).astype(np.float32)
    return code
