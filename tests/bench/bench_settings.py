"""What the measuring processes of these tests are given."""

import torch
from torch import nn

from pullback.generators.family import FamilyGenerator

SETTINGS = {
    "distance": {"name": "mse"}, "device": "cpu", "threads": None, "points": 3, "components": None, "tf32": False,
    "keep_memory": False,
}  # fmt: skip


class TwoSpaces(FamilyGenerator):
    """A generator of a family, with a mapping from z to w."""

    family = "two"

    def __init__(self):
        super().__init__({"z": {"z": 4}, "w": {"w": 6}}, z_dim=4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.mapping, self.drawing = nn.Linear(4, 6), nn.Linear(6, 48)

    def map(self, z, condition=None):
        return torch.tanh(self.mapping(z)) if self.space == "w" else z

    def render(self, blocks, condition):
        w = blocks["w"] if self.space == "w" else torch.tanh(self.mapping(blocks["z"]))
        return torch.tanh(self.drawing(w)).reshape(-1, 3, 4, 4)


def two_spaces():
    return TwoSpaces()
