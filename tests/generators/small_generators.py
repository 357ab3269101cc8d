"""A small smooth generator whose images a test can change."""

import torch
from torch import nn


class Net(nn.Module):
    """Images [batch, channels, 8, 8] in [0, 1] through a smooth map; `change` alters what forward gives."""

    def __init__(self, change=None, latent_dim=4, channels=3, **attributes):
        super().__init__()
        self.linear = nn.Linear(4, channels * 64)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(channels * 64, 4, generator=torch.Generator().manual_seed(1)))
        self.change, self.latent_dim, self.channels = change, latent_dim, channels
        for key, value in attributes.items():
            setattr(self, key, value)
        self.eval()

    def images(self, z):
        return torch.sigmoid(self.linear(z)).view(-1, self.channels, 8, 8)

    def forward(self, z, *condition):
        return self.images(z) if self.change is None else self.change(self, z)


def always(value):
    return Net(lambda net, z: value(net.images(z)) if callable(value) else value)
