"""CMA-ES (Hansen, arXiv 1604.00772) by the package `cmaes`, in z or in coordinates scaled by a metric, and BasinCMA.

The coordinates are y with z = z₀ + B y; B = U (Λ + μI)^−p makes equal steps in y change the image about equally.
BasinCMA (Bau et al., ICCV 2019; Huh et al., ECCV 2020) takes some gradient steps from each candidate, and gives CMA-ES
the value after them at the candidate's own place.
"""

import numpy as np
import torch
from cmaes import CMA
from torch import Tensor

from pullback.applications.inverting import adam
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    basis: Tensor | None = None,
    sigma: float = 0.4,
    population: int | None = None,
    inner: int = 0,
    rate: float = 0.05,
    steps: int = 10_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes. The rows take turns, one generation each, so that they share the budget evenly.

    Args:
        objective: f.
        codes: starts [rows, n], the first means.
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each generation; returns whether to stop.
        basis: B [n, n]; None for the identity.
        sigma: first standard deviation of the candidates.
        population: candidates of a generation; by default 4 + ⌊3 ln n⌋.
        inner: Adam steps from each candidate: 0 for CMA-ES, more for BasinCMA.
        rate: learning rate of these steps.
        steps: most generations of a row.
        seed: seed of the candidates.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    best = codes.detach().to(torch.float64).clone()
    starts, basis = best.clone(), None if basis is None else basis.to(best)
    values = objective.values(best, target, condition)
    if watch(target, best, values, condition):  # the budget may end before every row has had its turn
        return best, values
    n = best.shape[1]
    searches = [CMA(np.zeros(n), sigma, seed=seed + 1 + row, population_size=population) for row in range(len(best))]
    for _ in range(steps):
        for row, search in enumerate(searches):
            asked = [search.ask() for _ in range(search.population_size)]
            moved = torch.from_numpy(np.stack(asked)).to(best)
            tried = starts[row] + (moved if basis is None else moved @ basis.T)
            same = target[row].expand(len(tried))
            own = None if condition is None else condition[row].expand(len(tried))
            if inner:
                tried, found = adam.minimise(objective, tried, same, own, watch, basis=basis, rate=rate, steps=inner)
            else:
                found = objective.values(tried, same, own)
            found = torch.nan_to_num(found, nan=torch.inf)
            place = int(found.argmin())
            if float(found[place]) < float(values[row]):
                best[row], values[row] = tried[place], found[place]
            if watch(same, tried, found, own) or not bool(found.isfinite().all()):
                return best, values
            search.tell(list(zip(asked, found.tolist(), strict=True)))
        if all(search.should_stop() for search in searches):
            break
    return best, values
