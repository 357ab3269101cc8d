"""What the searchers are measured on: units of AlexNet on a generator's images, and a synthetic generator of 4,096
dimensions whose spectrum, axes and best score are known.

The synthetic generator is linear with a ReLU: its image is h = relu(√Λ Uᵀ z), with U = D H / √n orthogonal, H a
Hadamard matrix and D a diagonal of signs. Under the squared error Σ (h − h')² a coordinate of h is active for half of
all codes z ~ N(0, I), so the mean metric is 2 · ½ · U Λ Uᵀ = U Λ Uᵀ: axes and eigenvalues are known in closed form. The
eigenvalues fall by one decade in 170 ranks, from 10^−.7 to 10^−7, which gives the dimensions of FC6 (Wang & Ponce: 286,
495, 662 and 816 for 99 % to 99.999 % of the trace; here 340, 509, 679 and 846). A unit is the score w · h with
w ~ N(0, I). Its maximum in the ball ‖z‖ ≤ r is r √(Σ max(w_i, 0)² λ_i): only axes with positive weights are used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pullback.applications.searching.coordinates import Metric
from pullback.applications.searching.evaluation import Evaluation
from pullback.applications.searching.feasible import Feasible, Floats, feasible_set
from pullback.applications.searching.objective import Objective, Unit, UnitScore
from pullback.distances.lpips import image_statistics, trunk_input
from pullback.distances.trunks import load_trunk
from pullback.generators.base import reference_tensor
from pullback.generators.codes import trial_codes
from pullback.weights.manifest import locate

Score = Callable[[Floats], Floats]
"""From codes z [population, n] to scores [population]."""


_ALIVE = 1e-3
"""Least standard deviation of a unit over random images, relative to the layer's median: dead units are left out."""


@dataclass(frozen=True)
class Suite:
    """Units with what they share.

    Attributes:
        name: in rows and tables.
        feasible: the feasible set.
        metric: the mean metric.
        score: from the number of a unit to its score.
        unit: from the number of a unit to its name.
        best: from the number of a unit to the largest score in the feasible set, where it is known; else None.
        shuffled: the mean metric of shuffled weights, if there is one.
        noises: levels of noise.
        sigma: first standard deviation of every CMA-ES, chosen on units that are not measured.
    """

    name: str
    feasible: Feasible
    metric: Metric
    score: Callable[[int], Score]
    unit: Callable[[int], str]
    best: Callable[[int], float | None] = lambda number: None
    shuffled: Metric | None = None
    noises: tuple[float, ...] = (0.0,)
    sigma: float = 0.6


def hadamard(x: Floats) -> Floats:
    """Return x H / √n for rows x [batch, n], n a power of two: the fast Walsh-Hadamard transform."""
    batch, n = x.shape
    held, width = np.array(x, dtype=np.float64), 1
    while width < n:
        parts = held.reshape(batch, -1, 2, width)
        held = np.stack([parts[:, :, 0] + parts[:, :, 1], parts[:, :, 0] - parts[:, :, 1]], axis=2).reshape(batch, n)
        width *= 2
    return np.asarray(held / np.sqrt(n))


def fc6_spectrum(n: int) -> Floats:
    """Return eigenvalues [n] like those of FC6: 10^−.7, one decade less in 170 ranks (of 4,096), and at least 10^−7."""
    return np.asarray(10.0 ** np.maximum(-0.7 - np.arange(n) * (4096 / n) / 170, -7.0))


def synthetic_suite(n: int = 4096, axes: int = 1000, seed: int = 0, noises: tuple[float, ...] = (0.0, 0.5)) -> Suite:
    """Return the suite of the synthetic generator.

    Args:
        n: size of a code, a power of two.
        axes: leading axes of the metric that searchers may use.
        seed: seed of the signs D; units are drawn from seed and number.
        noises: levels of noise.
    """
    signs = np.where(np.random.default_rng(seed).random(n) < 0.5, -1.0, 1.0)
    values = fc6_spectrum(n)
    roots = np.sqrt(values)
    leading = min(axes, n)
    rows = hadamard(np.eye(n)[:leading]) * signs  # u_i, so that u_i · z is hadamard(signs · z)_i
    feasible = Feasible(np.zeros(n), 1.0, 1.25 * float(np.sqrt(n)))

    def weights(number: int) -> Floats:
        # Two numbers, so that no searcher draws from the stream that made the weights.
        return np.random.default_rng(np.random.SeedSequence([seed, n], spawn_key=(number,))).standard_normal(n)

    def score(number: int) -> Score:
        scaled = weights(number) * roots
        return lambda codes: np.asarray(np.maximum(hadamard(codes * signs), 0) @ scaled)

    def best(number: int) -> float:
        return feasible.radius * float(np.linalg.norm(np.maximum(weights(number), 0) * roots))

    return Suite(
        f"synthetic {n}",
        feasible,
        Metric(values[:leading], rows),
        score,
        lambda number: f"w{number}",
        best,
        None,
        noises,
    )


def trunk_suite(
    name: str,
    generator: torch.nn.Module,
    metric: Metric,
    shuffled: Metric | None = None,
    trunk: str = "alex",
    seed: int = 0,
    condition: Any = None,
    noises: tuple[float, ...] = (0.0,),
    path: Path | None = None,
    sphere: bool = False,
) -> Suite:
    """Return the suite of a generator with units of a feature network, in turn from each layer.

    Units are drawn among those that respond to the generator's images; the mean response over 64 random images is
    subtracted from none of them.

    Args:
        name: in rows and tables.
        generator: G.
        metric: its mean metric.
        shuffled: the mean metric of the generator with shuffled weights.
        trunk: `alex`, `vgg` or `squeeze`.
        seed: seed of the choice of units.
        condition: class of a generator with classes.
        noises: levels of noise.
        path: the trunk's weights; by default those of this machine.
        sphere: the feasible set is ‖z‖ = √n, in place of ‖z‖ ≤ 1.25 √n.
    """
    network = load_trunk(trunk, locate(f"trunk-{trunk}")[0] if path is None else path)
    codes = trial_codes(generator, 64, seed)
    evaluation = Evaluation(generator, Objective(lambda images: images.mean(dim=(1, 2, 3)), "mean"), condition)
    images = evaluation.images(codes.double().cpu().numpy())
    layers = len(network.channels)
    alive: list[Any] = []
    with torch.no_grad():
        for activation in network(trunk_input(images.cpu(), *image_statistics())):
            spread = activation.mean(dim=(2, 3)).std(dim=0)
            alive.append(torch.nonzero(spread > _ALIVE * spread.median())[:, 0].numpy())
    device = reference_tensor(generator).device
    chosen = [np.random.default_rng([seed, layer]).permutation(alive[layer]) for layer in range(layers)]

    def unit_of(number: int) -> Unit:
        layer = number % layers
        return Unit(trunk, layer, int(chosen[layer][(number // layers) % len(chosen[layer])]))

    def score(number: int) -> Score:
        objective = Objective(UnitScore(network, unit_of(number)).eval().to(device), name)
        return Evaluation(generator, objective, condition).scores

    def word(number: int) -> str:
        unit = unit_of(number)
        return f"{unit.trunk}:{unit.layer + 1}:{unit.channel}"

    return Suite(name, feasible_set(generator, sphere), metric, score, word, shuffled=shuffled, noises=noises)
