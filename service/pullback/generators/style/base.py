"""The spaces of a style-based generator: Z, W, W+, and Z with class labels.

W+ has a separate code for each layer of the synthesis network (Abdal et al., "Image2StyleGAN", ICCV 2019). Truncation
(Karras et al., CVPR 2019, appendix B) moves codes of W towards their mean: w̄ + ψ (w − w̄), in the first layers or all.
It belongs to the mapping: codes of W and W+ enter the synthesis network directly, and are not truncated again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.errors import ArgumentError
from pullback.generators.family import FamilyGenerator
from pullback.generators.style.mapping import Mapping as MappingNetwork

WAverage = tuple[float, ...] | str | int | None
"""The option `w_avg`: numbers, the path of a `.npy` file, or the number of mapped codes to average."""
_CODES_AT_ONCE = 4096


class StyleGenerator(FamilyGenerator):
    """A mapping network and a synthesis network; subclasses implement `synthesise`.

    Args:
        mapping: the mapping network; None if the file has none.
        z_dim: the size of a code in Z.
        w_dim: the size of a code in W.
        layers: number of layers with a code of their own in W+.
        classes: the number of classes.
        w_avg: the family's option of that name.
        per_layer: whether the mapping network returns a code for each layer; the space W then does not exist.
    """

    truncates = True
    truncation_in_single: bool = False
    """Whether ψ is rounded to float32, as in genforce."""
    w_avg: Tensor

    def __init__(
        self,
        mapping: MappingNetwork | None,
        z_dim: int,
        w_dim: int,
        layers: int,
        classes: int = 0,
        w_avg: WAverage = None,
        per_layer: bool = False,
    ) -> None:
        spaces: dict[str, dict[str, int]] = {}
        if mapping is not None:
            spaces["z"] = {"z": z_dim}
        if not per_layer:
            spaces["w"] = {"w": w_dim}
        spaces["w+"] = {f"w{index}": w_dim for index in range(layers)}
        if classes and mapping is not None:
            spaces["z+class"] = {"z": z_dim, "class": classes}
        super().__init__(spaces, z_dim, tuple(str(index) for index in range(classes)))
        self.w_dim, self.depth, self.map_classes = w_dim, layers, self.classes
        self._given_average = w_avg
        self.register_buffer("w_avg", torch.zeros((layers, w_dim) if per_layer else (w_dim,)))
        self.average_known = True
        self.mapping = mapping

    @property
    def maps(self) -> bool:
        """Whether the mapping network computes the codes of the generator's space; see `FamilyGenerator.maps`."""
        return self.mapping is not None and self.space != "z"

    def synthesise(self, styles: Sequence[Tensor]) -> Tensor:
        """Return images [batch, channels, height, width] of codes in W: one tensor [batch, w_dim] for each layer."""
        raise NotImplementedError(f"{type(self).__name__} must implement synthesise(styles)")

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Return images [batch, 1 or 3, height, width] in about [0, 1]; see `FamilyGenerator.forward`.

        A fourth channel, which is opacity, is left out.
        """
        images = super().forward(z, condition)
        return images[:, :3] if images.shape[1] == 4 else images

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images as the original implementation does; see `FamilyGenerator.render`."""
        if self.space == "w":
            return self.synthesise([blocks["w"]] * self.depth)
        if self.space == "w+":
            return self.synthesise(list(blocks.values()))
        labels = blocks.get("class")
        return self.synthesise(self._mapped(blocks["z"], labels if labels is not None else condition))

    def map(self, z: Tensor, condition: Any = None) -> Tensor:
        """Map codes z [batch, z_dim] to codes of the generator's space, truncated in W and W+.

        Raises:
            SpecError: the file has no mapping network.
        """
        if self.mapping is None:
            raise ArgumentError("space", f"{self.name} has no mapping network; give codes of {self.space}")
        if self.space == "z":
            return z
        condition = self._condition(condition, z)
        if self.map_classes and condition is None:
            raise ArgumentError("condition", f"{self.name} is class-conditional; its mapping needs a class")
        if self.space == "z+class":
            return torch.cat([z, self.labels(condition, z)], dim=1)
        styles = self._mapped(z, condition)
        return styles[0] if self.space == "w" else torch.cat(list(styles), dim=1)

    def settings_made(self) -> None:
        """Set the classes of the space, and check that it can be truncated.

        Raises:
            SpecError: truncation needs a mean of W that neither the file nor the job gives, or the space W does not
                allow a cutoff.
        """
        self.classes = self.map_classes if self.space == "z" else ()
        if self.truncation == 1:
            return
        cutoff = self.truncation_cutoff
        if self.space == "w" and cutoff is not None and cutoff < self.depth:
            raise ArgumentError(
                "truncation_cutoff",
                f"with a cutoff of {cutoff} the {self.depth} layers of "
                f"{self.name} have different codes, which the space w cannot hold; use the space w+, or omit it",
            )
        if not self.average_known:
            raise ArgumentError(
                "w_avg",
                f"truncation needs the mean of W, which the file of {self.name} does not hold. "
                "Give a number of mapped codes to average, such as 10000, or the path of an array (.npy), or set the "
                "truncation to 1",
            )

    @torch.no_grad()
    def set_average(self, found: bool) -> None:
        """Set the mean of W to the job's value, if the job gives one; called once, after the weights are loaded.

        Args:
            found: whether the file holds a mean.

        Raises:
            SpecError: the mean has a wrong size, or its file cannot be read.
        """
        given = self._given_average
        self.average_known = found or given is not None
        if given is None:
            return
        if isinstance(given, int):
            self.w_avg.copy_(self._mean_of(given))
            return
        values = _read(given) if isinstance(given, str) else np.asarray(given, dtype=np.float64)
        if values.size != self.w_avg.numel():
            raise ArgumentError("w_avg", f"has {values.size} numbers; {self.name} needs {self.w_avg.numel()}")
        self.w_avg.copy_(torch.from_numpy(values).reshape(self.w_avg.shape))

    def labels(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """Return soft labels [batch, classes] of a condition; see `FamilyGenerator.labels`.

        In W and W+ an image needs no class, so the generator has no `classes`. `map` still takes a class.
        """
        count = len(self.map_classes)
        if condition is None:
            raise ValueError(f"{self.name} is class-conditional: give each code a class index")
        if condition.is_floating_point():
            if condition.dim() != 2 or condition.shape[1] != count:
                raise ValueError(f"soft labels of {self.name} have shape [batch, {count}], not {list(condition.shape)}")
            return condition.to(like).expand(len(like), -1)
        one_hot = nn.functional.one_hot(condition.to(like.device).long().reshape(-1), count)
        return one_hot.to(like).expand(len(like), -1)

    def _condition(self, condition: Any, codes: Tensor) -> Tensor | None:
        if condition is None or not self.map_classes:
            return None
        given = torch.as_tensor(condition, device=codes.device)
        return given.reshape(-1) if given.dim() == 0 else given

    def _mapped(self, z: Tensor, condition: Tensor | None) -> list[Tensor]:
        """Return the truncated code of each layer."""
        assert self.mapping is not None
        labels = self._labels_or_embedding(condition, z) if self.map_classes else None
        w = self.mapping(z, labels)
        styles = list(w.chunk(self.depth, dim=1)) if self.w_avg.dim() == 2 else [w] * self.depth
        if self.truncation == 1:
            return styles
        psi = float(np.float32(self.truncation)) if self.truncation_in_single else self.truncation
        cutoff = self.depth if self.truncation_cutoff is None else self.truncation_cutoff
        if self.w_avg.dim() == 1:  # one truncated code serves all layers
            return [self.w_avg + psi * (w - self.w_avg)] * min(cutoff, self.depth) + styles[cutoff:]
        near = [mean + psi * (each - mean) for mean, each in zip(self.w_avg, styles[:cutoff], strict=False)]
        return near + styles[cutoff:]

    def _labels_or_embedding(self, condition: Tensor | None, z: Tensor) -> Tensor:
        """Return the mapping network's class input: soft labels, or the class embedding itself."""
        embedding = None if self.mapping is None else self.mapping.embedding
        if embedding is not None and condition is not None and condition.is_floating_point():
            size = embedding.weight.shape[0]
            if size != len(self.map_classes) and condition.dim() == 2 and condition.shape[1] == size:
                return condition.to(z).expand(len(z), -1)
        return self.labels(condition, z)

    def _mean_of(self, count: int) -> Tensor:
        """Return the mean in W of `count` mapped standard normal codes z, drawn with seed 0."""
        if self.mapping is None or count < 1:
            raise ArgumentError("w_avg", f"{count} codes cannot be averaged; give at least 1, or the numbers")
        stream = np.random.default_rng(np.random.SeedSequence(0))
        total = torch.zeros_like(self.w_avg).flatten()
        for start in range(0, count, _CODES_AT_ONCE):
            size = (min(_CODES_AT_ONCE, count - start), self.z_dim)
            z = torch.from_numpy(stream.standard_normal(size)).to(total)
            labels = torch.arange(len(z), device=z.device) % max(1, len(self.map_classes))
            given = self.labels(labels, z) if self.map_classes else None
            total += self.mapping(z, given).sum(0)
        return (total / count).reshape(self.w_avg.shape)


def _read(path: str) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(np.load(Path(path), allow_pickle=False), dtype=np.float64)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArgumentError("w_avg", f"{path} cannot be read as an array of numbers: {error}") from error
