"""The activation of one layer of a torch module as a distance: D² = Σ (a − a_ref)², not normalised.

The module takes images, or it is the generator itself, whose activations are functions of the code. A forward hook
reads the layer's output during one pass and is removed afterwards. The hook passes a detached copy to the rest of the
network. It is a copy because the next layer may work in place (`ReLU(inplace=True)`). It is detached because only the
layer's own derivatives are needed; later layers then propagate no tangents.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.errors import ArgumentError
from pullback.generators.base import generate, reference_tensor
from pullback.generators.fingerprint import ORIGIN
from pullback.generators.user_code import call_factory, declared_weights
from pullback.spec import DistanceOptions, code_meant, names_code, nearest
from pullback.spec.messages import shown

_MOST_LISTED = 60

SUMMARY = "Σ (a − a_ref)² of the activation a of one layer"


class Options(DistanceOptions):
    """The options of a layer's distance."""

    module: str
    """`module:factory`, which gives a torch module of images [batch, 3, height, width] in [0, 1]; or `generator`."""
    layer: str = Field(min_length=1)
    """A name of the module's `named_modules()`, such as `blocks.2`."""

    @field_validator("module")
    @classmethod
    def _is_code_or_generator(cls, module: str, info: ValidationInfo) -> str:
        if module == "generator":
            unused = [key for key in ("clamp", "size") if info.data.get(key)]
            if unused:
                raise ValueError(f"a layer of the generator measures no image; remove {' and '.join(unused)}")
        elif not names_code(module):
            raise ValueError(
                f"{shown(module)} is neither 'generator' (a layer of the generator itself) nor 'module:factory' (your "
                f"own){code_meant(module) or nearest(module, ['generator'])}"
            )
        return module

    @property
    def label(self) -> str:
        """The short name used in tables, such as `features-blocks.2`."""
        return f"features-{self.layer}"

    def local_keys(self) -> Iterator[str]:
        """Yield the keys whose values name files or code on the machine that runs the job."""
        if self.module != "generator":
            yield "module"
        yield from super().local_keys()


class FeatureDistance(ResidualDistance):
    """D²(x, y) = Σ (a(x) − a(y))², with a the activation of a layer of a module that takes images.

    Args:
        module: takes images [batch, 3, height, width] in [0, 1] (add your own normalisation in front). It is set to
            evaluation mode.
        layer: the layer's name among `module.named_modules()`, such as `blocks.2`; it must give a tensor [batch, ...]
            and run once in a pass.
        clamp: see `Distance`.
        size: see `Distance`.
        mask: see `Distance`; the activation must then be [batch, channels, height, width].

    Raises:
        ValueError: the module has no such layer; the message suggests the nearest name.
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
        """Return the activation [batch, m] of images.

        Raises:
            ValueError: the layer did not run, ran more than once, or does not return a real tensor [batch, ...]; or
                there is a mask and the activation has no height and width.
        """
        images = as_taken(images, self.module)
        activation = activation_of(self.module, self.layer, lambda: self.module(images), len(images))
        return _flat(self, activation, self.layer)


class GeneratorLayer(ResidualDistance):
    """D² = Σ (a(z) − a(z0))², with a the activation of one of the generator's own layers.

    It is a function of the code and not of the image, so it supports only `residual_at` and `squared_at`.

    Args:
        layer: the layer's name among the generator's `named_modules()`; as in `FeatureDistance`.
        mask: as in `FeatureDistance`.
    """

    def __init__(self, layer: str, *, mask: Mask | None = None) -> None:
        super().__init__(mask=mask)
        self.layer = layer
        self.name = f"features-{layer}"

    def features(self, images: Tensor) -> Tensor:
        """Not supported: this distance is defined on a layer of the generator, not on images.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.name} compares an activation inside the generator, which cannot be computed from an image: ask for "
            "residual_at(generator, z) or squared_at(generator, z0, z), or choose a distance of images"
        )

    def residual_at(self, generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the layer's activation [batch, m] at codes [batch, n].

        Raises:
            ValueError: the generator has no such layer; or as in `FeatureDistance.features`.
        """
        activation = activation_of(generator, self.layer, lambda: generate(generator, z, condition), len(z))
        return _flat(self, activation, self.layer)


def as_taken(images: Tensor, function: Any) -> Tensor:
    """Convert images to the dtype of a module's weights; without weights (or for a function) return them unchanged."""
    held = reference_tensor(function) if isinstance(function, nn.Module) else images
    return images.to(held.dtype) if held.numel() else images


def activation_of(module: nn.Module, layer: str, run: Callable[[], Any], batch: int) -> Tensor:
    """Return the output [batch, ...] of a module's layer in one pass, differentiable in every mode of torch.

    Args:
        module: the module that holds the layer.
        layer: its name among `module.named_modules()`.
        run: makes the pass.
        batch: the number of inputs of the pass.

    Raises:
        ValueError: there is no such layer, it did not run, it ran more than once, or it does not return a real tensor
            [batch, ...].
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
            f"{list(activation.shape)}; remove the mask, or choose a layer with height and width"
        )
    return distance.weighted(activation).flatten(1)


def build(options: Options, mask: Mask | None) -> ResidualDistance:
    """Build the distance of a job.

    Raises:
        SpecError: the factory or the layer does not exist. A generator's layer is checked later, with the generator.
        PullbackError: the factory failed, or did not return a torch module.
    """
    if options.module == "generator":
        return GeneratorLayer(options.layer, mask=mask)
    module, source, origin = call_factory(options.module, "module")
    try:
        distance = FeatureDistance(module, options.layer, clamp=options.clamp, size=options.size, mask=mask)
    except ValueError as error:
        raise ArgumentError("layer", f"{error}") from error
    distance.weights |= {**declared_weights(module), **source}
    setattr(distance, ORIGIN, origin)
    return distance.eval().requires_grad_(False)
