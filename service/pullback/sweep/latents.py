"""The latent codes of a sweep's samples.

Invariant: a sample's code depends on its index alone. Random numbers come from `SeedSequence(seed, spawn_key=(i,))`, in
float64 on the CPU, and are cast once. Codes pass a mapping network one by one. So no shard size, batch or number of
workers changes a code.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pullback.errors import SpecError
from pullback.generators.attributes import class_names, latent_size, name_of
from pullback.generators.codes import has_mapping, input_size, mapped
from pullback.spec import CYCLE, SamplesSpec
from pullback.spec.messages import enumerated
from pullback.store.code_files import read_codes

Float64 = NDArray[np.float64]


class LatentCodes:
    """The codes of a job's samples for one generator.

    Args:
        samples: the section `samples` of the job.
        generator: gives the size of a code, and the mapping network if it has one.
        conditioned: whether the job gives each sample a class.

    Raises:
        SpecError: the file of codes cannot be read, has another width, or too few rows; or the mapping network needs
            classes and there are none.
    """

    def __init__(self, samples: SamplesSpec, generator: nn.Module, conditioned: bool = True) -> None:
        self._samples, self._generator = samples, generator
        self._maps = samples.is_mapped and has_mapping(generator)
        if self._maps and class_names(generator) and not conditioned:
            raise SpecError(
                [
                    f"generator.condition: codes of {name_of(generator)} are mapped for a class each; choose one of "
                    f"{enumerated(class_names(generator), 12)}, or {CYCLE} to take them in turn"
                ]
            )
        if samples.map and not self._maps:
            raise SpecError([f"samples.map: {name_of(generator)} has no mapping network; remove this key"])
        self._size = input_size(generator) if self._maps else latent_size(generator)
        self._codes = self._read("codes", samples.codes)
        self._directions = self._read("directions", samples.directions)
        available = self._available()
        if available is not None and samples.count > available:
            raise SpecError(
                [
                    f"samples.count: {samples.codes} gives {available} codes from row {samples.first} on, not "
                    f"{samples.count}; the nearest valid value is {available}"
                ]
            )

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the given codes and directions as float64 numbers, for the sweep's identity."""
        held = {"samples.codes": self._codes, "samples.directions": self._directions}
        return {
            name: hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()
            for name, array in held.items()
            if array is not None
        }

    def at(self, indices: Iterable[int], classes: Tensor | None = None) -> NDArray[np.float32]:
        """The codes [len(indices), n] float32 of sample indices.

        Args:
            indices: the samples.
            classes: their class indices [len(indices)], which a conditional mapping network needs.
        """
        wanted = list(indices)
        codes = np.stack([self._code(index) for index in wanted]) if wanted else np.empty((0, self._size))
        if not self._maps or not wanted:
            return codes.astype(np.float32)
        rows = [
            mapped(self._generator, torch.from_numpy(code[None]), None if classes is None else classes[at : at + 1])
            for at, code in enumerate(codes)
        ]
        return torch.cat(rows).to("cpu", torch.float32).numpy()

    def _code(self, index: int) -> Any:
        samples = self._samples
        if self._codes is None:
            return drawn(samples, index, self._size)
        row = samples.first + index
        if samples.distribution == "codes":
            return self._codes[row]
        if samples.distribution == "around":
            return self._codes[samples.first + index // samples.each] + drawn(samples, index, self._size)
        line, step = divmod(index, samples.steps)
        start, part = self._codes[samples.first + line], step / (samples.steps - 1)
        if samples.distribution == "between":
            end = self._codes[samples.first + line + 1]
            return _between(start, end, part, spherical=samples.interpolation == "spherical")
        assert self._directions is not None
        return start + samples.extent * (2 * part - 1) * self._directions[line % len(self._directions)]

    def _available(self) -> int | None:
        if self._codes is None:
            return None
        samples, rows = self._samples, len(self._codes) - self._samples.first
        per_row = {"codes": 1, "around": samples.each, "between": samples.steps, "line": samples.steps}
        return max(0, rows - (samples.distribution == "between")) * per_row[samples.distribution]

    def _read(self, key: str, path: str | None) -> Float64 | None:
        if path is None:
            return None
        codes = read_codes(path, self._samples.key if key == "codes" else None, f"samples.{key}")
        if codes.shape[1] != self._size:
            kind = "inputs of the mapping network" if self._maps else "codes"
            raise SpecError(
                [
                    f"samples.{key}: the rows of {path} have {codes.shape[1]} numbers; {kind} of "
                    f"{name_of(self._generator)} have {self._size}"
                ]
            )
        return codes


def _between(start: Float64, end: Float64, part: float, spherical: bool) -> Float64:
    """Interpolate two codes: on the segment, or on the great circle (Shoemake, 1985) with a norm between theirs."""
    straight: Float64 = start + part * (end - start)
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if not spherical or min(lengths) == 0:
        return straight
    one, two = start / lengths[0], end / lengths[1]
    angle = float(np.arccos(np.clip(one @ two, -1, 1)))
    sine = np.sin(angle)
    if sine < 1e-9:
        return straight
    direction = (np.sin((1 - part) * angle) * one + np.sin(part * angle) * two) / sine
    code: Float64 = direction * ((1 - part) * lengths[0] + part * lengths[1])
    return code


def sample_latents(samples: SamplesSpec, indices: Iterable[int], latent_dim: int) -> NDArray[np.float32]:
    """Return the codes [len(indices), n] float32 of samples, from a distribution that reads no file.

    Args:
        samples: the distribution and its seed.
        indices: the samples.
        latent_dim: n.
    """
    codes = [drawn(samples, index, latent_dim).astype(np.float32) for index in indices]
    return np.stack(codes) if codes else np.empty((0, latent_dim), np.float32)


def drawn(samples: SamplesSpec, index: int, size: int) -> Float64:
    """Draw the random numbers of one sample's code, [size] float64."""
    if samples.distribution == "sphere":
        direction = _stream(samples, index // samples.each).standard_normal(size)
        norms: Sequence[float] = samples.norms or (size**0.5,)
        norm: Float64 = samples.scale * norms[index % len(norms)] * direction / np.linalg.norm(direction)
        return norm
    stream = _stream(samples, index)
    if samples.distribution == "uniform":
        return samples.scale * stream.uniform(-1, 1, size)
    if samples.distribution == "truncated_normal":
        # Inverting the distribution function needs one draw for each coordinate.
        below = torch.special.ndtr(torch.tensor(-samples.bound, dtype=torch.float64))
        part = torch.from_numpy(stream.random(size))
        inside: Float64 = torch.special.ndtri(below + part * (1 - 2 * below)).numpy()
        return samples.scale * np.clip(inside, -samples.bound, samples.bound)
    code: Float64 = samples.scale * stream.standard_normal(size)
    return code


def _stream(samples: SamplesSpec, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(samples.seed, spawn_key=(index,)))
