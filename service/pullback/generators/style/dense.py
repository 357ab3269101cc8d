"""Linear layers and convolutions whose weights are multiplied by a constant when they are used.

Karras et al. ("Progressive growing of GANs", ICLR 2018, section 4.1) call this the equalised learning rate: a weight is
stored with unit variance and used as weight · c, with c = gain / sqrt(number of inputs). The constant is applied in the
precision of the computation, so a network in float64 uses the exact constant and not its rounding to float32.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fan_in(weight: Tensor) -> int:
    """Return the number of inputs of each output: the product of all axes of a weight except the first."""
    return weight[0].numel()


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Return x / sqrt(mean(x², axis 1) + eps): vectors along axis 1, divided by their root mean square."""
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()


class Dense(nn.Module):
    """y = gain · W x + bias_gain · b.

    Args:
        into: inputs.
        out: outputs.
        gain: multiplies the stored weight.
        bias_gain: multiplies the stored bias; None for a layer without a bias.
    """

    bias: Tensor | None

    def __init__(self, into: int, out: int, gain: float, bias_gain: float | None = 1.0) -> None:
        super().__init__()
        self.gain, self.bias_gain = gain, bias_gain
        self.weight = nn.Parameter(torch.zeros(out, into))
        self.bias = None if bias_gain is None else nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [batch, out] of inputs [batch, into]."""
        bias = None if self.bias is None or self.bias_gain is None else self.bias * self.bias_gain
        return F.linear(x * self.gain, self.weight, bias)


class Conv(nn.Module):
    """y = gain · W * x + bias_gain · b, a convolution that keeps height and width if its kernel is odd.

    Args:
        into: input channels.
        out: output channels.
        kernel: its size.
        gain: multiplies the stored weight, in addition to 1 / sqrt(inputs).
        bias: whether there is a bias.
        scale_bias: whether the bias is multiplied by the same constant as the weight.
        padding: pixels on each side; by default half of the kernel.
        equalized: whether weights are scaled; False also ignores `gain`.
    """

    bias: Tensor | None

    def __init__(
        self,
        into: int,
        out: int,
        kernel: int,
        gain: float = 1.0,
        bias: bool = True,
        scale_bias: bool = False,
        padding: int | None = None,
        equalized: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, into, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.gain = gain / math.sqrt(fan_in(self.weight)) if equalized else 1.0
        self.bias_gain = self.gain if scale_bias else 1.0
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, out, height, width] from features [batch, into, height, width]."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        return F.conv2d(x, self.weight * self.gain, bias, padding=self.padding)
