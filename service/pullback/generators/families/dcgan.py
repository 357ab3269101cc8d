"""DCGAN generators, plain and class-conditional (Radford, Metz and Chintala, "Unsupervised Representation Learning with
Deep Convolutional Generative Adversarial Networks", ICLR 2016).

The architecture follows from the shapes in the checkpoint. A transposed convolution makes the first feature map from
the code. Then 4×4 transposed convolutions of stride 2 double the image. Batch norm and ReLU follow each of them except
the last, which a tanh follows. Class-conditional generators take the code with a one-hot class appended. Keys may have
gaps in their numbering (`main.0.weight`, `main.4.weight`, ...), because dropout layers do nothing at inference. Images
have one channel or three.

The norms use their stored statistics. The scripts of both sources draw samples in training mode instead. There an
image depends on the other images of its batch, so the map has no metric.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.spec import options
from pullback.weights.content import Content
from pullback.weights.networks import Misfit

SUMMARY = "DCGAN (Radford et al., 2016), plain and class-conditional"
READS = (
    "a state dict of transposed convolutions and batch norms in sequence, as the tutorial of torch saves",
    "pytorch_GAN_zoo: a dict with config, netG and avgG",
)

_KEY = re.compile(r"^(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")
_WITHOUT_TANH = ("WGANGP", "Logistic")
"""Values of lossCriterion of pytorch_GAN_zoo whose generators end without an activation."""


class Options(options.Options):
    """Options of a DCGAN."""

    widths: tuple[int, ...]
    """Channels of the code and after each transposed convolution, such as (100, 512, 256, 128, 64, 3)."""
    classes: tuple[str, ...] = ()
    """Class names, where the code ends with a one-hot class."""
    start: int = 4
    """Height and width of the first feature map, and of the first kernel."""
    bias: bool = False
    """Whether the transposed convolutions have biases."""
    output: Literal["tanh", "none"] = "tanh"
    """The last activation."""


class Dcgan(FamilyGenerator):
    """A DCGAN generator.

    Spaces: `z`, with a class as the condition of a class-conditional generator; `z+class`, where the code ends with the
    soft labels.
    """

    def __init__(self, options: Options) -> None:
        widths, labels = options.widths, len(options.classes)
        n = widths[0] - labels
        spaces = {"z": {"z": n}} | ({"z+class": {"noise": n, "class": labels}} if labels else {})
        super().__init__(spaces, n, options.classes)
        layers: list[nn.Module] = []
        for index, (into, out) in enumerate(pairwise(widths)):
            kernel, stride, padding = (options.start, 1, 0) if index == 0 else (4, 2, 1)
            layers.append(nn.ConvTranspose2d(into, out, kernel, stride, padding, bias=options.bias))
            if index < len(widths) - 2:
                layers += [nn.BatchNorm2d(out), nn.ReLU()]
        self.main = nn.Sequential(*layers, *([nn.Tanh()] if options.output == "tanh" else []))

    def map(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map inputs z [batch, n] and a condition to codes of the generator's space."""
        return torch.cat([z, self.labels(self._condition(condition, z), z)], dim=1) if len(self.blocks) > 1 else z

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images [batch, channels, size, size] in [-1, 1]; see `FamilyGenerator.render`."""
        parts = list(blocks.values())
        if self.classes and len(parts) == 1:
            parts.append(self.labels(condition, parts[0]))
        code = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        image: Tensor = self.main(code[:, :, None, None])
        return image


def read(content: Content) -> Found | None:
    """Recognise a sequence of transposed convolutions; the layers may have any name, or none.

    Raises:
        Misfit: it is such a sequence, but not a DCGAN generator.
    """
    zoo = _zoo_names(content.state)
    ordered = _numbered(content.state) if zoo is None else zoo
    if ordered is None:
        return None
    weights = [layer["weight"] for layer in ordered if "weight" in layer]
    kernels = [weight for weight in weights if weight.dim() == 4]
    shapes = [tuple(kernel.shape) for kernel in kernels]
    square = all(shape[2] == shape[3] for shape in shapes)
    if len(kernels) < 2 or not square or any(shape[2:] != (4, 4) for shape in shapes[1:]):
        raise Misfit(f"is not a DCGAN's: its kernels are {shapes}, not 4 × 4 in sequence")
    if all(before[0] == after[1] for before, after in pairwise(shapes)) and shapes[-1][0] == 1:
        raise Misfit("is a discriminator's, not a generator's: its kernels lead from an image to one number")
    found: dict[str, Any] = {
        "widths": (shapes[0][0], *(shape[1] for shape in shapes)),
        "start": shapes[0][2],
        "bias": all("bias" in layer for layer in ordered if layer.get("weight", kernels[0]).dim() == 4),
    }
    if zoo is not None:
        found |= _zoo_options(_config(content))
    own = [index for index, layer in enumerate(Dcgan(Options(widths=found["widths"])).main) if layer.state_dict()]
    if len(own) != len(ordered):
        raise Misfit(f"has {len(ordered)} layers with tensors; a DCGAN like it has {len(own)}")
    state = {
        f"main.{index}.{name}": tensor
        for index, tensors in zip(own, ordered, strict=True)
        for name, tensor in tensors.items()
    }
    return Found(found, state, notes=_notes(ordered))


def _numbered(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]] | None:
    """Return the layers of a numbered sequence, in order; None if the names do not match."""
    layers: dict[int, dict[str, Tensor]] = {}
    heads = {name.partition(".")[0] for name in state}
    head = "" if all(name.isdigit() for name in heads) else "main." if "main" in heads else f"{min(heads, default='')}."
    for key, tensor in state.items():
        match = _KEY.match(key.removeprefix(head)) if key.startswith(head) else None
        if not match:
            return None
        layers.setdefault(int(match[1]), {})[match[2]] = tensor
    return [layers[index] for index in sorted(layers)] or None


_ZOO_KEY = re.compile(r"(formatLayer|main\.(?:batchNorm(\d+)|convTranspose(\d+)|outlayer))\.(\w+)")


def _zoo_names(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]] | None:
    """Return the layers of a DCGAN of pytorch_GAN_zoo, in order; None if the names do not match.

    Batch norm N follows convolution N; the format layer is convolution 0.
    """
    if "formatLayer.weight" not in state or "main.outlayer.weight" not in state:
        return None
    layers: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _ZOO_KEY.fullmatch(name)
        if match is None:
            return None
        layer, norm, convolution, part = match.groups()
        last = layer == "main.outlayer"
        place = (len(state), 0) if last else (int(norm), 1) if norm else (int(convolution or 0), 0)
        layers.setdefault(place, {})[part] = tensor
    return [layers[place] for place in sorted(layers)]


def _config(content: Content) -> Mapping[str, Any]:
    """Return the attributes of the training configuration, from the file or from one beside it."""
    inside = content.root.get("config") if isinstance(content.root, Mapping) else None
    for name in ("attributes", "state"):
        inside = getattr(inside, name, inside)
    return inside if isinstance(inside, Mapping) and inside else content.config


def _zoo_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a configuration of pytorch_GAN_zoo sets."""
    found: dict[str, Any] = {"output": "none" if config.get("lossCriterion") in _WITHOUT_TANH else "tanh"}
    count, attributes = int(config.get("categoryVectorDim") or 0), config.get("attribKeysOrder")
    if count and isinstance(attributes, Mapping):
        ordered = sorted(attributes.items(), key=lambda item: int(item[1]["order"]))
        names = [f"{attribute}: {value}" for attribute, each in ordered for value in each["values"]]
        found["classes"] = tuple(names)
    if count and len(found.get("classes", ())) != count:
        found["classes"] = tuple(str(index) for index in range(count))
    return found


def _notes(layers: list[dict[str, Tensor]]) -> tuple[str, ...]:
    norms = [layer for layer in layers if {"running_mean", "running_var"} <= layer.keys()]
    unset = all(bool((layer["running_mean"] == 0).all() and (layer["running_var"] == 1).all()) for layer in norms)
    if not norms or not unset:
        return ()
    return ("its norms hold the statistics of no data (means of 0, variances of 1), as an average of parameters may",)


def build(options: Options, state: Mapping[str, Tensor]) -> Dcgan:
    """Build a DCGAN from a state dict.

    Raises:
        Misfit: the tensors do not fit a DCGAN generator with this number of classes.
    """
    if options.widths[0] <= len(options.classes):
        raise Misfit(f"takes {options.widths[0]} inputs, too few for {len(options.classes)} classes")
    generator = Dcgan(options)
    load_state(generator, state)
    return generator
