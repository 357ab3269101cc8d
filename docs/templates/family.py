"""A family of generators with a mapping network, as an example. Say here which paper and code it comes from.

TEMPLATE: copy to service/pullback/generators/families/NAME.py, or into a package of yours that registers it:
[project.entry-points."pullback.generators"] NAME = "your_package.your_module". The name is the family's name in jobs.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.spec import options
from pullback.weights.content import Content

SUMMARY = "a mapping network and a linear layer"  # TEMPLATE: one line, for `pullback plugins` and error messages
READS = ("state dicts with the keys map.weight and draw.weight",)  # TEMPLATE: a line for each layout of files


class Options(options.Options):
    """Everything that decides the network; a job gives them under `generator:`."""

    # TEMPLATE: an option without a default that the file does not hold, as `size` here, has to be given in the job. The
    # error says so, with this docstring.
    z_dim: int = Field(ge=1)
    """Numbers of an input of the mapping network."""
    w_dim: int = Field(ge=1)
    """Numbers of a code in W."""
    size: int = Field(ge=1)
    """Height and width of the images in pixels."""


class Painter(FamilyGenerator):
    """Codes of Z or W to images [batch, 3, size, size]."""

    truncates = True
    value_range = (-1.0, 1.0)  # TEMPLATE: the values of the original's images for black and white

    def __init__(self, given: Options) -> None:
        # TEMPLATE: every latent space, with the names and sizes of its blocks; the first space is the default
        super().__init__({"z": {"z": given.z_dim}, "w": {"w": given.w_dim}}, z_dim=given.z_dim)
        self.size = given.size
        self.mapping = nn.Linear(given.z_dim, given.w_dim)
        self.drawing = nn.Linear(given.w_dim, 3 * given.size**2)

    def map(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Codes of the generator's space for inputs z [batch, z_dim]."""
        return z if self.space == "z" else self._w(z)

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Images exactly as the original returns them; see `FamilyGenerator.render`."""
        w = self._w(blocks["z"]) if self.space == "z" else blocks["w"]
        return torch.tanh(self.drawing(w)).reshape(-1, 3, self.size, self.size)

    def _w(self, z: Tensor) -> Tensor:
        # TEMPLATE: truncation has the meaning that the family's own code gives it
        return self.truncation * torch.tanh(self.mapping(z))


def read(content: Content) -> Found | None:
    """Recognise one network of a checkpoint by its keys; None for any other."""
    state = content.state
    if not {"map.weight", "draw.weight"} <= {*state}:
        return None
    w_dim, z_dim = state["map.weight"].shape
    names = {"map": "mapping", "draw": "drawing"}
    renamed = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        renamed[f"{names.get(head, head)}.{rest}"] = tensor  # what does not fit is reported by `load_state`
    sizes = {"size": content.config["size"]} if "size" in content.config else {}
    return Found({"z_dim": z_dim, "w_dim": w_dim, **sizes}, renamed)


def build(options: Options, state: Mapping[str, Tensor]) -> Painter:
    """A network that holds the tensors; raises Misfit with the keys that do not fit."""
    generator = Painter(options)
    load_state(generator, state)
    return generator
