"""Generator families: the exports of a family's module, and the base class of the networks that it builds.

A family is one module of `pullback.generators.families`, or of another package under the entry points
`pullback.generators`. It exports `SUMMARY`, `READS`, `Options`, `read` and `build`:

- `read(content)` recognises one network of a checkpoint and returns `Found`, or None for another family's network;
- `build(options, state)` returns a `FamilyGenerator` that holds the tensors.

`load_generator` finds the network in the file, calls `read` of each family, merges the job's options with those of the
file, and sets the space, the truncation and the noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pullback.errors import ArgumentError
from pullback.generators.attributes import add_note
from pullback.generators.base import Generator
from pullback.spec import nearest
from pullback.spec.messages import enumerated
from pullback.spec.options import Options
from pullback.weights.networks import Misfit

NOISES = ("const", "none", "seed")
"""Values of the job's key `noise`."""

Noise = Literal["const", "none", "seed"]
_MOST_LISTED = 12


@dataclass(frozen=True)
class Found:
    """Return value of a family's `read`: a recognised network.

    Attributes:
        options: values of the family's `Options` found in the file; the job's own values override them.
        state: the tensors under the names of the module that `build` makes, without unused keys.
        classes: the class names, if the file holds them.
        notes: sentences for readers of the results, such as which part of the file was ignored.
    """

    options: Mapping[str, Any]
    state: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


class FamilyGenerator(Generator):
    """A generator of a known family, in one of its latent spaces.

    Subclasses implement `render`, and also `map` if there is a mapping network.

    Args:
        spaces: the sizes of the named blocks of a code, by space: `{"z": {"z": 512}, "w": {"w": 512}}`. The first
            space is used until `use` chooses another.
        z_dim: the size of the input of `map`; samplers draw vectors of this size.
        classes: class names of a conditional generator.

    Attributes:
        family: the name of the family.
        options: all of the family's options as plain values, including those read from the file.
        space: the latent space of its codes.
        truncation: ψ of the family's truncation; 1 means none.
        truncation_cutoff: the number of layers that are truncated; None means all.
        noise: `const`, `none` or `seed`.
        z_dim: see the argument.
    """

    family: str = ""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """The values of black and white in images of `native`."""
    truncates: bool = False
    """Whether the family supports truncation."""
    noise_stored: bool = True
    """Whether the family's files hold the noise maps."""
    noise_uniform: bool = False
    """Whether noise is uniform in [0, 1] rather than standard normal."""

    def __init__(self, spaces: Mapping[str, Mapping[str, int]], z_dim: int, classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.spaces = {space: dict(blocks) for space, blocks in spaces.items()}
        self.z_dim = z_dim
        self.classes = tuple(classes)
        self.options: dict[str, Any] = {}
        self.truncation = 1.0
        self.truncation_cutoff: int | None = None
        self.noise: Noise = "const"
        self._set_space(next(iter(self.spaces)))

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images as the original implementation does.

        Args:
            blocks: the blocks of the codes in `self.space`, each [batch, size].
            condition: class indices [batch], soft labels [batch, classes], or a class embedding [batch, size].

        Returns:
            Images [batch, channels, height, width], neither clamped nor rescaled.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement render(blocks, condition)")

    def map(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map inputs z [batch, z_dim] to codes [batch, latent_dim] of the generator's space; truncates if ψ is not 1.

        Raises:
            SpecError: the family has no mapping to this space.
        """
        if self.latent_dim != self.z_dim or len(self.blocks) > 1:
            raise ArgumentError("space", f"{self.name} has no mapping from z to {self.space}")
        return z

    @property
    def condition_in_code(self) -> bool:
        """Whether the codes contain the class, so that images of given codes need no condition."""
        return not {"z", "noise"} & {*self.blocks} or "class" in self.blocks

    @property
    def maps(self) -> bool:
        """Whether a mapping network (or a class embedding) computes the codes of the generator's space."""
        return type(self).map is not FamilyGenerator.map and list(self.blocks) != ["z"]

    def noise_buffers(self) -> list[Tensor]:
        """Return the buffers that hold the noise maps, in the order in which they are drawn; empty without noise."""
        return []

    def native(self, codes: Tensor, condition: Any = None) -> Tensor:
        """Return images in the range of the original implementation, neither clamped nor rescaled.

        Args:
            codes: [batch, ...], with `latent_dim` values per row in any shape.
            condition: as in `forward`.
        """
        flat = codes.flatten(1)
        if flat.shape[1] != self.latent_dim:
            raise ValueError(
                f"codes of {self.name} in the space {self.space} have {self.latent_dim} values; these have "
                f"{list(codes.shape[1:])}"
            )
        return self.render(self.split(flat), self._condition(condition, flat))

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Return images [batch, channels, height, width] in about [0, 1], unclamped.

        Args:
            z: codes [batch, latent_dim] of the generator's space.
            condition: class indices [batch] (int64), soft labels [batch, classes] or embeddings [batch, size] of a
                class-conditional generator, else None.
        """
        low, high = self.value_range
        return (self.native(z, condition) - low) / (high - low)

    def split(self, codes: Tensor) -> dict[str, Tensor]:
        """Split codes [batch, latent_dim] into their named blocks, each [batch, size]."""
        return {name: codes[:, start:stop] for name, (start, stop) in self.blocks.items()}

    def labels(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """Return soft labels [batch, classes] of a condition, in the dtype and on the device of `like` [batch, ...].

        Raises:
            ValueError: there is no condition, or a class index is out of range.
        """
        count = len(self.classes)
        if condition is None:
            raise ValueError(f"{self.name} is class-conditional: give each code a class index")
        if condition.is_floating_point():
            if condition.dim() != 2 or condition.shape[1] != count:
                raise ValueError(f"soft labels of {self.name} have shape [batch, {count}], not {list(condition.shape)}")
            return condition.to(like).expand(len(like), -1)
        one_hot = nn.functional.one_hot(condition.to(like.device).long().reshape(-1), count)
        return one_hot.to(like).expand(len(like), -1)

    def use(
        self,
        space: str = "z",
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        noise: Noise = "const",
        noise_seed: int = 0,
    ) -> "FamilyGenerator":
        """Set the latent space, the truncation and the noise; called once, after the weights are loaded.

        Raises:
            SpecError: the family does not support the space, the truncation or the noise.
        """
        truncation = self.own_truncation(truncation)
        problems: list[tuple[str, str]] = []
        named = f"{self.name} ({self.family})"
        if space == "z" and "z" not in self.spaces:  # a job's default; such a family uses its first space
            space = next(iter(self.spaces))
        if space not in self.spaces:
            known = enumerated(list(self.spaces), _MOST_LISTED)
            problems.append(("space", f"{named} has no space {space!r}{nearest(space, self.spaces)} (it has {known})"))
        if (truncation != 1 or truncation_cutoff is not None) and not self.truncates:
            problems.append(
                (
                    "truncation",
                    f"{named} has no truncation; omit it. For shorter codes, draw them from a truncated normal "
                    "distribution or with a smaller scale",
                )
            )
        if noise not in NOISES:
            problems.append(("noise", f"must be one of {', '.join(NOISES)}, not {noise!r}{nearest(noise, NOISES)}"))
        if problems:
            (first, problem), *others = problems
            raise ArgumentError(first, problem, others)
        self._set_space(space)
        self.truncation, self.truncation_cutoff, self.noise = truncation, truncation_cutoff, noise
        self._set_noise(noise_seed)
        self.settings_made()
        return self

    def own_truncation(self, truncation: float) -> float:
        """Return the truncation that `use` sets for a job's; a family may check it or replace it."""
        return truncation

    def settings_made(self) -> None:
        """Check or complete the settings at the end of `use`; a family may override it."""

    def _set_space(self, space: str) -> None:
        self.space = space
        self.blocks = dict(_bounds(self.spaces[space]))
        self.latent_dim = sum(self.spaces[space].values())

    def _set_noise(self, seed: int) -> None:
        buffers = self.noise_buffers()
        if self.noise == "none":
            for buffer in buffers:
                buffer.zero_()
        elif buffers and (self.noise == "seed" or not self.noise_stored):
            for index, buffer in enumerate(buffers):
                stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
                drawn = stream.random(buffer.shape) if self.noise_uniform else stream.standard_normal(buffer.shape)
                buffer.copy_(torch.from_numpy(drawn))
            if self.noise == "const":
                add_note(self, f"its file holds no noise maps; they were drawn once, from the seed {seed}")

    def _condition(self, condition: Any, codes: Tensor) -> Tensor | None:
        if condition is None or not self.classes:
            return None
        given = torch.as_tensor(condition, device=codes.device)
        given = given.to(codes) if given.is_floating_point() else given
        return given.reshape(-1) if given.dim() == 0 else given


def _bounds(sizes: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    start = 0
    for name, size in sizes.items():
        yield name, (start, start + size)
        start += size


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly, and cast its tensors to the dtypes of the module.

    Raises:
        Misfit: keys are missing, unexpected or misshapen; lists all of them.
    """
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # they only count training steps
    missing = [name for name in own if name not in state and name not in counters]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    found = (("lacks", missing), ("has unexpected", unexpected), ("has misshapen", misshapen))
    problems = [f"{verb} {enumerated(names, _MOST_LISTED)}" for verb, names in found if names]
    if problems:
        raise Misfit(f"does not fit {type(module).__name__}: it {'; it '.join(problems)}")
    module.load_state_dict(dict(state), strict=False)


__all__ = ["NOISES", "FamilyGenerator", "Found", "Misfit", "Noise", "Options", "load_state"]
