"""The maps of a metric in float64: the reference for derivatives computed in another arithmetic."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import fold
from torch.overrides import TorchFunctionMode

from pullback.distances import Distance, ResidualDistance
from pullback.errors import is_interrupt
from pullback.generators.base import generate, repeat_rows
from pullback.metric.jacobian import Features, FeaturesOf, feature_map
from pullback.metric.precision import in_double
from pullback.metric.products import Squared, squared_map


class _ByProducts(TorchFunctionMode):
    """Compute float64 transposed convolutions on a CPU as matrix products, up to three times as fast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") == "conv_transpose2d" and len(args) >= 2:
            names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
            result = _transposed(**{**dict(zip(names, args, strict=False)), **given})
            if result is not None:
                return result
        return func(*args, **given)


def _transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    """A transposed convolution as one product for the whole batch; None if torch's own is faster or needed."""
    strides, pads, extra, gaps = (
        tuple(value) if isinstance(value, tuple | list) else (value, value)
        for value in (stride, padding, output_padding, dilation)
    )
    wide = weight.dim() == 4 and weight.shape[0] > 64  # with few channels the products are too small to pay off
    if input.dtype != torch.float64 or input.device.type != "cpu" or not wide or groups != 1 or input.dim() != 4:
        return None
    batch, into, height, width = input.shape
    kernel = weight.shape[2:]
    columns = weight.reshape(into, -1).T @ input.transpose(0, 1).reshape(into, -1)
    size = [
        (side - 1) * step - 2 * pad + gap * (taps - 1) + more + 1
        for side, step, pad, gap, taps, more in zip((height, width), strides, pads, gaps, kernel, extra, strict=True)
    ]
    parts = columns.view(-1, batch, height * width).transpose(0, 1)
    image = fold(parts, (size[0], size[1]), kernel, dilation=gaps, padding=pads, stride=strides)
    return image if bias is None else image + bias.view(1, -1, 1, 1)


class Maps:
    """The maps whose derivatives a certificate checks at a batch of codes, in the networks' dtype and in float64.

    Float64 copies of the networks are made on first use, and live as long as this object.

    Args:
        generator: G.
        distance: a residual distance or any other distance.
        z: the codes [batch, n].
        condition: classes of the codes [batch], if G is class-conditional.

    Some networks have no float64 copy, because a part cannot be copied or memory is short. Then `exact_features_of`
    returns None, and the function that `exact_squared_at` returns raises an error. A network that insists on another
    dtype raises its own error when its map is called.
    """

    def __init__(self, generator: nn.Module, distance: Distance, z: Tensor, condition: Tensor | None = None) -> None:
        self._given = generator, distance
        self._z, self._condition = z, condition

    @cached_property
    def copies(self) -> tuple[nn.Module, Distance] | None:
        """Float64 copies of the generator and the distance; None if they cannot be made."""
        try:
            return in_double(self._given[0]), in_double(self._given[1])
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            return None

    def features_of(self, part: slice | Tensor) -> Features:
        """The map from codes to residual features, for a part of the codes."""
        return self._features_of(*self._given, part)

    def exact_features_of(self) -> FeaturesOf | None:
        """The same map in float64, as a function of the part; None if there is no copy or no residual distance."""
        copies = self.copies
        if copies is None or not isinstance(copies[1], ResidualDistance):
            return None

        def quick(part: slice | Tensor) -> Features:
            features = self._features_of(*copies, part)

            def computed(z: Tensor) -> Tensor:
                with _ByProducts():
                    return features(z)

            return computed

        return quick

    def squared_at(self, index: int) -> Squared:
        """The map from codes to their squared distances from the code at an index."""
        return squared_map(*self._given, self._z[index], self._class_of(index))

    def exact_squared_at(self, index: int) -> Callable[[], Squared]:
        """A function that makes the same map in float64. It raises RuntimeError if there is no float64 copy."""

        def make() -> Squared:
            if self.copies is None:
                raise RuntimeError("these networks cannot be copied to float64")
            squared = squared_map(*self.copies, self._z[index].to(torch.float64), self._class_of(index))

            def computed(codes: Tensor) -> Tensor:
                with _ByProducts():
                    return squared(codes)

            return computed

        return make

    def seen_at(self, index: int) -> list[tuple[Features, torch.dtype]]:
        """The maps `seen_features` for the code at an index, each with the dtype of its codes; float64 first."""
        own = self._class_of(index)
        copied = [] if self.copies is None else [(seen_features(*self.copies, own), torch.float64)]
        return [*copied, (seen_features(*self._given, own), self._z.dtype)]

    def _class_of(self, index: int) -> Tensor | None:
        return None if self._condition is None else self._condition[index : index + 1]

    def _features_of(self, generator: nn.Module, distance: Distance, part: slice | Tensor) -> Features:
        assert isinstance(distance, ResidualDistance)
        return feature_map(generator, distance, None if self._condition is None else self._condition[part])


def seen_features(generator: nn.Module, distance: Distance, condition: Tensor | None) -> Features:
    """The map from codes to what a distance compares [batch, m]: residual features, or images if it has none."""
    if isinstance(distance, ResidualDistance):
        return feature_map(generator, distance, condition)

    def images(z: Tensor) -> Tensor:
        classes = condition
        if classes is not None and len(classes) != len(z):
            classes = repeat_rows(classes, len(z) // len(classes))
        return distance.prepared(generate(generator, z, classes)).flatten(1)

    return images
