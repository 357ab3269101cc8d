"""Starts of an inversion: ridge regression from image statistics, the nearest stored samples, and random codes.

The library has images of some thousand own samples, pooled to 16 × 16. A ridge regression of their codes on these
pixels is an encoder for any generator, in the time of the images alone. Its code is far from the true one, but its
image is near, and near enough that Gauss-Newton steps usually end in the right basin.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from pullback.applications.inverting.objective import Objective
from pullback.generators import generate, reference_tensor
from pullback.generators.attributes import class_names
from pullback.generators.codes import input_condition, input_size, mapped

POOLED = 16
"""Height and width of the pooled images."""
_PENALTY = 1.0
"""Weight of the squared coefficients, with pixels in [0, 1] and codes of unit variance."""
_BATCH = 50
_SHORTLIST = 100
"""Stored samples, nearest in pooled pixels, that are compared in the residual."""
_MOST_CLASSES = 16
"""Classes that are all tried if the class is unknown; of more, those of the nearest samples are tried."""


@dataclass(frozen=True)
class Starts:
    """Codes to start from, for several targets.

    Attributes:
        codes: [rows, n], float64.
        target: index of the target of each row [rows].
        condition: class of each row [rows]; None for a generator without classes.
        kinds: `ridge`, `nearest` or `random`, for each row.
    """

    codes: Tensor
    target: Tensor
    condition: Tensor | None
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Library:
    """Own samples of a generator: codes, pooled images, and the regression of the one on the other.

    Attributes:
        codes: [samples, n] float64 on the CPU: own samples, and behind them those of a sweep, if there are any.
        pooled: pooled images [samples, 3 · 16 · 16] float32 on the CPU.
        condition: class of each sample; None without classes.
        classes: number of classes.
        weights: coefficients of the regression [features, n].
        own: number of own samples. Only these have a part in the regression, the centre, the scale and random starts,
            because the codes of a sweep may be chosen in any way.
    """

    codes: Tensor
    pooled: Tensor
    condition: Tensor | None
    classes: int
    weights: Tensor
    own: int

    @classmethod
    def of(cls, codes: Tensor, pooled: Tensor, condition: Tensor | None, classes: int) -> "Library":
        """Fit the regression to codes [samples, n] and pooled images [samples, 768]."""
        features = _features(pooled, condition, classes)
        penalty = _PENALTY * torch.eye(features.shape[1], dtype=torch.float64)
        penalty[-1, -1] = 1e-8  # the constant is free
        weights = torch.linalg.solve(features.T @ features + penalty, features.T @ codes)
        return cls(codes, pooled, condition, classes, weights, len(codes))

    @classmethod
    def drawn(cls, generator: nn.Module, samples: int, seed: int) -> "Library":
        """Draw own samples of a generator; its classes come in turn."""
        like = reference_tensor(generator)
        stream = torch.Generator().manual_seed(seed)
        inputs = torch.randn(samples, input_size(generator), generator=stream)
        names = class_names(generator)
        classes = input_condition(generator, samples, like.device)
        codes = torch.cat(
            [mapped(generator, inputs[rows], None if classes is None else classes[rows]) for rows in _chunks(samples)]
        )
        own = torch.arange(samples) % len(names) if names else None
        return cls.imaged(generator, codes, own)

    @classmethod
    def imaged(cls, generator: nn.Module, codes: Tensor, condition: Tensor | None) -> "Library":
        """Make the images of codes [samples, n] of the classes [samples], and fit the regression."""
        like = reference_tensor(generator)
        pooled = []
        with torch.no_grad():
            for rows in _chunks(len(codes)):
                own = None if condition is None else condition[rows].to(like.device)
                pooled.append(pool(generate(generator, codes[rows].to(like), own)))
        return cls.of(
            codes.detach().to("cpu", torch.float64), torch.cat(pooled), condition, len(class_names(generator))
        )

    def with_stored(self, stored: "Library") -> "Library":
        """Return this library with the samples of another one of the same generator behind the own ones."""
        condition = self.condition
        if condition is not None and stored.condition is not None:
            condition = torch.cat([condition, stored.condition])
        codes, pooled = torch.cat([self.codes, stored.codes]), torch.cat([self.pooled, stored.pooled])
        return replace(self, codes=codes, pooled=pooled, condition=condition)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything but the regression, to be saved."""
        found = {"codes": self.codes.numpy(), "pooled": self.pooled.numpy(), "classes": np.array(self.classes)}
        return found if self.condition is None else {**found, "condition": self.condition.numpy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Library":
        """Return a saved library."""
        condition = torch.from_numpy(arrays["condition"]) if "condition" in arrays else None
        codes, pooled = torch.from_numpy(arrays["codes"]), torch.from_numpy(arrays["pooled"])
        return cls.of(codes, pooled, condition, int(arrays["classes"]))

    @property
    def centre(self) -> Tensor:
        """Mean of the own codes [n]."""
        return self.codes[: self.own].mean(dim=0)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the own codes [n]."""
        return self.codes[: self.own].std(dim=0).clamp_min(1e-6)

    def ridge(self, images: Tensor, condition: Tensor | None) -> Tensor:
        """Return the regression's codes [rows, n], float64, of images [rows, 3, height, width]."""
        own = None if condition is None else condition.cpu()
        return _features(pool(images), own, self.classes) @ self.weights

    def nearest(self, objective: Objective, target: int, count: int, condition: int | None) -> Tensor:
        """Return the indices of the stored samples nearest to a target, nearest first.

        The 100 nearest in pooled pixels are compared by f.
        """
        away = (self.pooled - pool(objective.targets[target : target + 1])).square().sum(dim=1)
        if condition is not None and self.condition is not None:
            away = torch.where(self.condition == condition, away, torch.inf)
        near = away.argsort()[: min(_SHORTLIST, int(away.isfinite().sum()))]
        values = []
        bare = objective.without_prior()
        for part in (near[rows] for rows in _chunks(len(near))):
            own = None if self.condition is None else self.condition[part].to(objective.device)
            index = torch.full((len(part),), target, device=objective.device)
            values.append(bare.values(self.codes[part].to(objective.device), index, own).cpu())
        return near[torch.cat(values).argsort()[:count]] if values else near

    def starts(
        self,
        objective: Objective,
        *,
        nearest: int = 3,
        random: int = 2,
        condition: int | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> Starts:
        """Return the starts of all targets of an objective.

        Args:
            objective: has the targets.
            nearest: stored samples of each target.
            random: random samples of each target.
            condition: the class of all targets; None if it is unknown or there are no classes.
            seed: seed of the random samples.
            first: number of the first target in its run, so that every target has random starts of its own.
        """
        codes, target, kinds, conditions = [], [], [], []
        for index in range(len(objective.targets)):
            near = self.nearest(objective, index, nearest, condition)
            stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first + index,)))
            allowed = np.arange(self.own)
            if condition is not None and self.condition is not None:
                allowed = np.flatnonzero(self.condition.numpy()[: self.own] == condition)
            chance = torch.from_numpy(stream.choice(allowed, min(random, len(allowed)), replace=False))
            tried = self._classes(near, condition)
            images = objective.targets[index : index + 1].expand(len(tried) or 1, -1, -1, -1)
            own = torch.tensor(tried) if tried else None
            rows = [self.ridge(images, own), self.codes[near], self.codes[chance]]
            codes += rows
            kinds += ["ridge"] * len(rows[0]) + ["nearest"] * len(near) + ["random"] * len(chance)
            target += [index] * sum(map(len, rows))
            if self.condition is not None:
                conditions += [*tried, *self.condition[near].tolist(), *self.condition[chance].tolist()]
        device = objective.device
        return Starts(
            torch.cat(codes).to(device),
            torch.tensor(target, device=device),
            torch.tensor(conditions, device=device) if conditions else None,
            tuple(kinds),
        )

    def _classes(self, near: Tensor, condition: int | None) -> list[int]:
        """The classes for which the regression gives a start."""
        if self.condition is None:
            return []
        if condition is not None:
            return [condition]
        if self.classes <= _MOST_CLASSES:
            return list(range(self.classes))
        return list(dict.fromkeys(self.condition[near].tolist()))


def pool(images: Tensor) -> Tensor:
    """Return images [batch, channels, height, width] pooled to 16 × 16 pixels [batch, 768], float32 on the CPU."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return adaptive_avg_pool2d(images.float(), POOLED).flatten(1).cpu()


def _features(pooled: Tensor, condition: Tensor | None, classes: int) -> Tensor:
    parts = [pooled.to(torch.float64)]
    if condition is not None:
        parts.append(one_hot(condition, classes).to(torch.float64))
    parts.append(torch.ones(len(pooled), 1, dtype=torch.float64))
    return torch.cat(parts, dim=1)


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]
