"""Mapping networks: from a code in Z (and a class, in a class-conditional network) to a code in W.

Karras et al., "A style-based generator architecture for generative adversarial networks", CVPR 2019: the code is
normalised and passes through linear layers with leaky ReLUs of slope 0.2.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.style.dense import Dense, pixel_norm

Norm = Literal["apart", "together", "unit"]
"""Normalisation: of code and class embedding separately, of both as one vector, or of the code to length 1."""
SLOPE = 0.2
"""The leaky ReLU's slope below 0, in every style-based family."""


class Mapping(nn.Module):
    """The mapping network.

    Args:
        z_dim: the size of the code.
        widths: outputs of each layer; the last is the size of W.
        gain: multiplies a layer's weight, in addition to 1 / sqrt(inputs). None: only `lr` multiplies the weight.
        lr: the learning rate multiplier: it multiplies weights and biases.
        after: multiplies the output of each leaky ReLU.
        norm: the kind of normalisation.
        classes: the size of the label; 0 without classes.
        embedding: the size of the class embedding.
        embedding_bias: whether the class embedding has a bias, and a weight that is divided by sqrt(classes).
        scale_bias: whether a bias is multiplied by the same constant as its weight.
        slope: slope of the leaky ReLUs below 0.
    """

    def __init__(
        self,
        z_dim: int,
        widths: tuple[int, ...],
        *,
        gain: float | None,
        lr: float,
        after: float,
        norm: Norm = "apart",
        classes: int = 0,
        embedding: int = 0,
        embedding_bias: bool = True,
        scale_bias: bool = False,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        self.norm, self.after, self.slope = norm, after, slope
        self.embedding: Dense | None = None
        if classes:
            scale = classes**-0.5 if embedding_bias else 1.0
            self.embedding = Dense(classes, embedding, scale, 1.0 if embedding_bias else None)
        layers, into = [], z_dim + (embedding if classes else 0)
        for width in widths:
            scale = lr if gain is None else lr * gain / into**0.5
            layers.append(Dense(into, width, scale, scale if scale_bias else lr))
            into = width
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return codes in W [batch, w_dim].

        Args:
            z: codes [batch, z_dim].
            labels: soft labels [batch, classes], or class embeddings [batch, embedding]; None without classes.
        """
        x = F.normalize(z, dim=1) if self.norm == "unit" else z if self.norm == "together" else pixel_norm(z)
        if self.embedding is not None:
            assert labels is not None
            classes = self.embedding.weight.shape[1]
            embedded = self.embedding(labels) if labels.shape[1] == classes else labels
            x = torch.cat([x, pixel_norm(embedded) if self.norm == "apart" else embedded], dim=1)
        if self.norm == "together":
            x = pixel_norm(x)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.slope)
            x = x if self.after == 1 else x * self.after
        return x
