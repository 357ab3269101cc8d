"""Principal components of activations, taken back to the latent space (GANSpace: Härkönen et al., NeurIPS 2020).

Activations a of a layer over many codes z have principal components P with standard deviations s. The components in
the latent space are the rows of M in min ‖x M − z‖², with the coordinates x = P (a − ā) / s of the same codes
(section 3.2 of the paper; `linreg_lstsq` of its code). In a space W of a mapping network the codes are their own
activations, and the components are those of the codes.

A first layer that is linear in a standard normal code gives the right singular vectors of its weight, in theory.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from pullback.applications.direction_sets import DirectionSet
from pullback.applications.mapping_jacobian import has_mapping_network
from pullback.applications.recorded_layers import first_layer, flat_outputs
from pullback.errors import PullbackError
from pullback.generators.attributes import latent_size
from pullback.generators.codes import trial_codes
from pullback.generators.style.base import StyleGenerator

Floats = npt.NDArray[np.float64]

CODES = "codes"
"""In place of a layer's name: the codes themselves."""
_BATCH = 64
_EXACT = 3000
"""Largest matrix that is decomposed whole; beyond it, subspace iteration finds the leading components."""
_BYTES = 2**30
"""Bytes of codes or of activations in memory. Where they are larger, fewer codes are used."""
_OVERSAMPLING, _PASSES = 20, 12


def default_layer(generator: nn.Module) -> str:
    """Return the layer that GANSpace would take: the codes in W, the mapping network in Z, else the first layer.

    Raises:
        PullbackError: the generator has no layers.
    """
    if isinstance(generator, StyleGenerator) and generator.space.startswith("z") and generator.mapping is not None:
        return "mapping"
    if has_mapping_network(generator):
        return CODES
    found = first_layer(generator, trial_codes(generator, 2, 0))
    if found is None:
        raise PullbackError("the generator has no layer with parameters, so there are no activations to compare")
    return found


def activation_components(
    generator: nn.Module, count: int, samples: int, seed: int, layer: str | None = None
) -> DirectionSet:
    """Return the leading principal components of a layer's activations, in the latent space.

    Args:
        generator: the generator.
        count: number of components; fewer if the activations have fewer dimensions.
        samples: number of codes.
        seed: seed of the codes.
        layer: the module's name, or `codes`; by default that of `default_layer`.

    Raises:
        PullbackError: there is no such layer, or its activations do not depend on the code.
    """
    name = default_layer(generator) if layer is None else layer
    samples = min(samples, max(2, _BYTES // (8 * latent_size(generator))))
    codes = trial_codes(generator, samples, seed)
    if name == CODES:
        values = codes.double().cpu().numpy()
        rows, deviations = principal_components(values - values.mean(axis=0), count)
        return DirectionSet.of("ganspace", rows, deviations, (f"PCA of {samples} codes",))
    activations = _activations(generator, codes, name)
    used = len(activations)
    codes = codes[:used]
    activations -= activations.mean(axis=0)
    rows, deviations = principal_components(activations, count)
    if len(rows) == 0:
        raise PullbackError(f"the activations of {name!r} do not depend on the code, so they have no components")
    coordinates = (activations @ rows.T.astype(activations.dtype)).astype(np.float64) / deviations
    latent = np.linalg.lstsq(coordinates, codes.double().cpu().numpy(), rcond=None)[0]
    notes = (f"PCA of {used} activations of {name} ({activations.shape[1]} values each), regressed on the codes",)
    return DirectionSet.of("ganspace", latent, deviations, notes)


def principal_components(centred: npt.NDArray[np.floating], count: int) -> tuple[Floats, Floats]:
    """Return the leading principal components `[k, d]`, unit rows, and their standard deviations `[k]`.

    Args:
        centred: `[samples, d]`, whose columns have mean 0.
        count: how many; those whose deviation is round-off (1e-6 of the largest) are left out.
    """
    samples, size = centred.shape
    if size <= min(samples, _EXACT):
        moments = centred.T @ centred
        squares, columns = np.linalg.eigh(moments.astype(np.float64))
        rows = columns.T[::-1]
    elif samples <= _EXACT:
        squares, columns = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        kept = squares > 1e-12 * max(squares[-1], 0.0)
        squares, rows = squares[kept], (columns[:, kept] / np.sqrt(squares[kept])).T[::-1] @ centred
    else:
        squares, rows = _leading(centred, count)
    squares = squares[::-1]
    deviations = np.sqrt(np.maximum(squares, 0.0) / max(samples - 1, 1))
    found = int(np.sum(deviations > 1e-6 * deviations[0])) if len(deviations) else 0
    kept_count = min(count, found)
    return np.asarray(rows[:kept_count], dtype=np.float64), deviations[:kept_count]


def _leading(centred: npt.NDArray[np.floating], count: int) -> tuple[Floats, Floats]:
    """Subspace iteration (Halko, Martinsson and Tropp, 2011); eigenvalues ascending, rows descending."""
    size = min(centred.shape[1], count + _OVERSAMPLING)
    basis = np.random.default_rng(0).standard_normal((centred.shape[1], size)).astype(centred.dtype)
    for _ in range(_PASSES):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    projected = centred @ basis
    squares, turn = np.linalg.eigh((projected.T @ projected).astype(np.float64))
    return squares, (basis @ turn).T[::-1]


def _activations(generator: nn.Module, codes: Tensor, name: str) -> npt.NDArray[np.float32]:
    def batches() -> Iterator[Tensor]:
        for start in range(0, len(codes), _BATCH):
            yield codes[start : start + _BATCH]

    rows: list[npt.NDArray[np.float32]] = []
    held = 0
    for outputs in flat_outputs(generator, batches(), name):
        values = outputs.float().cpu().numpy()
        rows.append(values)
        held += values.nbytes
        if held > _BYTES:
            break
    found = np.concatenate(rows)
    if not np.isfinite(found).all():
        raise PullbackError(f"the activations of {name!r} are not finite for some codes. Nothing was computed.")
    return found
