"""Control networks: the architecture of a generator with weights that carry no training.

`shuffled` permutes the numbers of each tensor (Wang and Ponce, ICLR 2021, section 4 of the appendix, compare the
metric with such networks); `random` keeps only their mean and standard deviation.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pullback.generators.attributes import add_note

Control = Literal["shuffled", "random"]


@torch.no_grad()
def make_control(generator: nn.Module, control: Control, seed: int = 0) -> None:
    """Replace every floating-point tensor of a generator's state dict, in place.

    The k-th tensor draws from `SeedSequence(seed, spawn_key=(k,))`, so a seed gives the same network everywhere. Tied
    tensors are replaced once.

    Args:
        generator: the loaded generator.
        control: `shuffled` permutes the numbers of each tensor; `random` draws them from a normal distribution with the
            tensor's mean and standard deviation. If a tensor has no negative numbers, such as a variance, it gets the
            absolute values of the draws.
        seed: seed of the permutations or draws.
    """
    done: set[int] = set()
    for index, tensor in enumerate(generator.state_dict(keep_vars=True).values()):
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.data_ptr() not in done:
            done.add(tensor.data_ptr())
            stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
            values = tensor.detach().cpu().flatten()
            made = _shuffled(values, stream) if control == "shuffled" else _random(values, stream)
            tensor.copy_(made.reshape(tensor.shape))
    what = {
        "shuffled": "the numbers of each of its tensors were permuted",
        "random": "each of its tensors was drawn anew with the same mean and standard deviation",
    }
    add_note(generator, f"it is a control: {what[control]} (seed {seed})")


def _shuffled(values: Tensor, stream: np.random.Generator) -> Tensor:
    return values[torch.from_numpy(stream.permutation(len(values)))]


def _random(values: Tensor, stream: np.random.Generator) -> Tensor:
    exact = values.double()
    drawn = exact.mean() + exact.std() * torch.from_numpy(stream.standard_normal(len(values)))
    return (drawn if bool((values < 0).any()) else drawn.abs()).to(values.dtype)
