"""Small checkpoints with exactly the keys of the real ones, and the network that they belong to, written plainly.

`faces`: {"netG_state_dict": state}, five transposed convolutions numbered 0, 3, 6, 9, 12.
`eyes`: the state itself, six numbered 0, 4, 7, 10, 13, 16: a dropout layer stands at 3.
"""

from itertools import pairwise

import torch
from torch import nn

FACES_WIDTHS = (5, 8, 7, 6, 4, 3)
EYES_WIDTHS = (7, 9, 8, 7, 6, 4, 3)
SMALL_WIDTHS = (5, 6, 4, 3)
EYES_CLASSES = ("red", "green", "blue")


def network(widths, dropout=False):
    """The network as its authors wrote it, with random weights and random norm statistics."""
    layers = [nn.ConvTranspose2d(widths[0], widths[1], 4, 1, 0, bias=False), nn.BatchNorm2d(widths[1]), nn.ReLU(True)]
    if dropout:
        layers.append(nn.Dropout(0.5))
    for into, out in pairwise(widths[1:-1]):
        layers += [nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(True)]
    layers += [nn.ConvTranspose2d(widths[-2], widths[-1], 4, 2, 1, bias=False), nn.Tanh()]
    main = nn.Sequential(*layers)
    stream = torch.Generator().manual_seed(1)
    for name, tensor in main.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(11)
        elif name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=stream))
        else:
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=stream))
    return main


def state_dict_of(main):
    return {f"main.{key}": tensor for key, tensor in main.state_dict().items()}


def save_faces(path):
    """Writes the plain checkpoint; gives its network in evaluation mode."""
    main = network(FACES_WIDTHS)
    torch.save({"netG_state_dict": state_dict_of(main)}, path)
    return main.eval()


def save_eyes(path):
    """Writes the class-conditional checkpoint; gives its network in evaluation mode."""
    main = network(EYES_WIDTHS, dropout=True)
    torch.save(state_dict_of(main), path)
    return main.eval()


def small_generator(seed):
    """The state of a small DCGAN whose weights are drawn from the seed."""
    main = network(SMALL_WIDTHS)
    stream = torch.Generator().manual_seed(seed)
    for name, tensor in main.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=stream))
    return state_dict_of(main)


def small_discriminator():
    """The state of a DCGAN's discriminator, whose keys are called as the generator's."""
    layers = [nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(4, 6, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Conv2d(6, 1, 4, 1, 0, bias=False), nn.Sigmoid()]
    return state_dict_of(nn.Sequential(*layers))
