"""Directions from the Jacobian of the mapping network (Local Basis: Choi et al., ICLR 2022).

At a code w = f(z) the Local Basis is the left singular vectors of ∂f/∂z. Over several codes this module takes the
eigenvectors of the mean of (∂f/∂z)(∂f/∂z)ᵀ; for one code they are the Local Basis itself.
"""

import numpy as np
import torch
from torch import Tensor, nn

from pullback.applications.direction_sets import DirectionSet
from pullback.errors import PullbackError
from pullback.generators.attributes import latent_blocks, latent_size, name_of
from pullback.generators.base import reference_tensor
from pullback.generators.codes import has_mapping, input_condition, input_size


def has_mapping_network(generator: nn.Module) -> bool:
    """Return whether a network computes the codes of the generator's space, and not only the embedding of a class."""
    own = {"z", "noise", "class"} & {*latent_blocks(generator)}
    return has_mapping(generator) and not own


def mapping_directions(generator: nn.Module, count: int, codes: int, seed: int) -> DirectionSet:
    """Return the leading directions in which the mapping network moves its codes.

    Args:
        generator: a generator with a mapping network, in the space of its codes.
        count: number of directions, at most n.
        codes: number of codes z over which J Jᵀ is averaged.
        seed: seed of the codes.

    Raises:
        PullbackError: the generator has no mapping network, or its codes are inputs of that network.
    """
    if not has_mapping_network(generator):
        raise PullbackError(
            f"{name_of(generator)} has no mapping network to the space of the sweep's codes, so it has no Local Basis. "
            "Leave this method out, or use a sweep in w or w+."
        )
    like = reference_tensor(generator)
    stream = torch.Generator().manual_seed(seed)
    z = torch.randn(codes, input_size(generator), generator=stream).to(like)
    condition = input_condition(generator, codes, z.device)
    n = latent_size(generator)
    total = np.zeros((n, n))
    z.requires_grad_(True)
    with torch.enable_grad():
        mapped: Tensor = generator.map(z) if condition is None else generator.map(z, condition)  # type: ignore[operator]
        # Each row of w depends on its own z only, so one backward pass gives row j of every Jacobian.
        rows = [torch.autograd.grad(mapped[:, j].sum(), z, retain_graph=True)[0] for j in range(n)]
    for jacobian in torch.stack(rows, dim=1).double().cpu().numpy():
        total += jacobian @ jacobian.T
    values, columns = np.linalg.eigh(total / codes)
    if not values[-1] > 0:
        raise PullbackError(f"the mapping network of {name_of(generator)} does not move its codes (Local Basis)")
    found = columns.T[::-1][: min(count, int(np.sum(values > 1e-12 * values[-1])))]
    deviations = np.sqrt(np.maximum(values[::-1][: len(found)], 0.0))
    return DirectionSet.of("local_basis", found, deviations, (f"mean of J Jᵀ over {codes} codes",))
