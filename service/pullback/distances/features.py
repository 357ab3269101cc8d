"""The activation of one layer of a torch module as a distance: D² = Σ (a − a_ref)², not normalised.

The module takes images, or it is the generator itself, whose activations are functions of the code. A forward hook
reads the layer's output for the length of one pass and leaves nothing behind. What it hands on to the rest of the
network is a copy without derivatives: a copy, because the next layer may work in place (`ReLU(inplace=True)`), and
without derivatives, because none but the layer's own are wanted and the layers behind it then cost no tangents.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.errors import SpecError
from pullback.generators.base import images_of
from pullback.generators.user_code import made_by, weights_told
from pullback.spec import FeaturesSpec, nearest

_MOST_LISTED = 60


class FeatureDistance(ResidualDistance):
    """D²(x, y) = Σ (a(x) − a(y))², with a the activation of a layer of a module that takes images.

    Args:
        module: takes images [batch, 3, height, width] in [0, 1] (put your own normalisation in front); it is put into
            evaluation mode.
        layer: the layer's name among `module.named_modules()`, such as `blocks.2`; it must give a tensor [batch, ...]
            and run once in a pass.
        clamp: see `Distance`.
        size: see `Distance`.
        mask: see `Distance`; the activation must then be [batch, channels, height, width].

    Raises:
        ValueError: the module has no such layer; told with the nearest name.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str,
        *,
        clamp: bool = False,
        size: int | None = None,
        mask: Mask | None = None,
    ) -> None:
        super().__init__(clamp, size, mask)
        _layer_of(module, layer)
        self.module = module.eval()
        self.layer = layer
        self.name = f"features-{layer}"

    def features(self, images: Tensor) -> Tensor:
        """The activation [batch, m] of images.

        Raises:
            ValueError: the layer did not run, ran more than once, or gives no tensor [batch, ...] of real numbers; or
                there is a mask and the activation has no height and width.
        """
        activation = activation_of(self.module, self.layer, lambda: self.module(images), len(images))
        return _flat(self, activation, self.layer)


class GeneratorLayer(ResidualDistance):
    """D² = Σ (a(z) − a(z0))², with a the activation of one of the generator's own layers.

    It is a function of the code and not of the image: `residual_at` and `squared_at` are all that it has.

    Args:
        layer: the layer's name among the generator's `named_modules()`; as in `FeatureDistance`.
        mask: as in `FeatureDistance`.
    """

    def __init__(self, layer: str, *, mask: Mask | None = None) -> None:
        super().__init__(mask=mask)
        self.layer = layer
        self.name = f"features-{layer}"

    def features(self, images: Tensor) -> Tensor:
        """Not to be had.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.name} compares an activation inside the generator, which an image does not tell: ask for "
            "residual_at(generator, z) or squared_at(generator, z0, z), or choose a distance of images"
        )

    def residual_at(self, generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The layer's activation [batch, m] at codes [batch, n].

        Raises:
            ValueError: the generator has no such layer; or as in `FeatureDistance.features`.
        """
        activation = activation_of(generator, self.layer, lambda: images_of(generator, z, condition), len(z))
        return _flat(self, activation, self.layer)


def activation_of(module: nn.Module, layer: str, run: Callable[[], Any], batch: int) -> Tensor:
    """The output [batch, ...] of a module's layer in one pass; differentiable in every mode of torch.

    Args:
        module: holds the layer.
        layer: its name among `module.named_modules()`.
        run: makes the pass.
        batch: how many inputs the pass has.

    Raises:
        ValueError: there is no such layer; it did not run, or ran more than once; or it gives no tensor [batch, ...]
            of real numbers.
    """
    found: list[Any] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        found.append(output)
        return output.detach().clone() if isinstance(output, Tensor) else output

    handle = _layer_of(module, layer).register_forward_hook(keep)
    try:
        run()
    finally:
        handle.remove()
    if not found:
        raise ValueError(f"the layer {layer!r} did not run in the pass; choose one that does")
    if len(found) > 1:
        raise ValueError(
            f"the layer {layer!r} ran {len(found)} times in one pass, so it has no single activation; choose one that "
            "runs once"
        )
    (activation,) = found
    if not isinstance(activation, Tensor) or not activation.is_floating_point():
        given = activation.dtype if isinstance(activation, Tensor) else type(activation).__name__
        raise ValueError(f"the layer {layer!r} gives {given}, not a tensor of real numbers; choose one that does")
    if activation.dim() == 0 or len(activation) != batch:
        raise ValueError(
            f"the layer {layer!r} gives {list(activation.shape)} for {batch} inputs; an activation [{batch}, ...] is "
            "needed, one for each of them"
        )
    return activation


def _layer_of(module: nn.Module, layer: str) -> nn.Module:
    layers: dict[str, nn.Module] = {name: inner for name, inner in module.named_modules() if name}
    if layer not in layers:
        more = f" and {len(layers) - _MOST_LISTED} more" if len(layers) > _MOST_LISTED else ""
        raise ValueError(
            f"{type(module).__name__} has no layer {layer!r}{nearest(layer, layers) or ';'} it has "
            f"{', '.join(list(layers)[:_MOST_LISTED]) or 'none'}{more}"
        )
    return layers[layer]


def _flat(distance: ResidualDistance, activation: Tensor, layer: str) -> Tensor:
    if distance.mask is not None and activation.dim() != 4:
        raise ValueError(
            f"a mask needs an activation [batch, channels, height, width], the layer {layer!r} gives "
            f"{list(activation.shape)}; remove distance.mask, or choose a layer with height and width"
        )
    return distance.weighted(activation).flatten(1)


def build(spec: FeaturesSpec, mask: Mask | None) -> ResidualDistance:
    """The distance of a job.

    Raises:
        SpecError: the factory or the layer does not exist. A generator's layer is looked for when there is a generator.
        PullbackError: the factory failed, or gave no torch module.
    """
    if spec.module == "generator":
        return GeneratorLayer(spec.layer, mask=mask)
    module, source = made_by(spec.module, "distance.module")
    try:
        distance = FeatureDistance(module, spec.layer, clamp=spec.clamp, size=spec.size, mask=mask)
    except ValueError as error:
        raise SpecError([f"distance.layer: {error}"]) from error
    distance.weights |= {**weights_told(module), **source}
    return distance.eval().requires_grad_(False)
