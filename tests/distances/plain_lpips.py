"""LPIPS v0.1 as its authors define it, written a second time: epsilon outside the root, no residual form.

Convolutions come in torchvision's order as (kernel, bias); heads as one vector a layer.
"""

import torch
import torch.nn.functional as F

SHIFT = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
SCALE = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

# torchvision's numbers of the convolutions in `features`, and (into, out, kernel) of each.
ALEX = {
    "features.0": (3, 64, 11),
    "features.3": (64, 192, 5),
    "features.6": (192, 384, 3),
    "features.8": (384, 256, 3),
    "features.10": (256, 256, 3),
}
VGG = {
    f"features.{number}": (into, out, 3)
    for number, into, out in [
        (0, 3, 64),
        (2, 64, 64),
        (5, 64, 128),
        (7, 128, 128),
        (10, 128, 256),
        (12, 256, 256),
        (14, 256, 256),
        (17, 256, 512),
        (19, 512, 512),
        (21, 512, 512),
        (24, 512, 512),
        (26, 512, 512),
        (28, 512, 512),
    ]
}
# The fire modules: (into, squeezed, each half of what they give).
FIRES = {
    3: (64, 16, 64),
    4: (128, 16, 64),
    6: (128, 32, 128),
    7: (256, 32, 128),
    9: (256, 48, 192),
    10: (384, 48, 192),
    11: (384, 64, 256),
    12: (512, 64, 256),
}
SQUEEZE = {"features.0": (3, 64, 3)}
for number, (into, squeezed, half) in FIRES.items():
    SQUEEZE[f"features.{number}.squeeze"] = (into, squeezed, 1)
    SQUEEZE[f"features.{number}.expand1x1"] = (squeezed, half, 1)
    SQUEEZE[f"features.{number}.expand3x3"] = (squeezed, half, 3)
LAYERS = {"alex": ALEX, "vgg": VGG, "squeeze": SQUEEZE}


def activations(trunk, convolutions, x):
    """The activations that LPIPS reads of images as the trunk is fed them: five, or seven of SqueezeNet."""
    if trunk == "squeeze":
        return squeezenet(convolutions, x)
    if trunk == "alex":
        (k0, b0), (k1, b1), (k2, b2), (k3, b3), (k4, b4) = convolutions
        a0 = F.relu(F.conv2d(x, k0, b0, stride=4, padding=2))
        a1 = F.relu(F.conv2d(F.max_pool2d(a0, 3, 2), k1, b1, padding=2))
        a2 = F.relu(F.conv2d(F.max_pool2d(a1, 3, 2), k2, b2, padding=1))
        a3 = F.relu(F.conv2d(a2, k3, b3, padding=1))
        a4 = F.relu(F.conv2d(a3, k4, b4, padding=1))
        return [a0, a1, a2, a3, a4]
    found = []
    for index, (kernel, bias) in enumerate(convolutions):
        x = F.relu(F.conv2d(x, kernel, bias, padding=1))
        if index in (1, 3, 6, 9, 12):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
            found.append(x)
            x = F.max_pool2d(x, 2)
    return found


def squeezenet(convolutions, x):
    """SqueezeNet 1.1 by torchvision's numbers: 0 a convolution, 2, 5 and 8 pooling, 3 to 12 the fire modules."""
    left = iter(convolutions)
    kernel, bias = next(left)
    x = F.relu(F.conv2d(x, kernel, bias, stride=2))
    after = {1: x}
    for number in range(2, 13):
        if number in (2, 5, 8):
            x = F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)
        else:
            (k0, b0), (k1, b1), (k3, b3) = next(left), next(left), next(left)
            x = F.relu(F.conv2d(x, k0, b0))
            x = F.relu(torch.cat([F.conv2d(x, k1, b1), F.conv2d(x, k3, b3, padding=1)], dim=1))
        after[number] = x
    return [after[number] for number in (1, 4, 7, 9, 10, 11, 12)]


def lpips(trunk, convolutions, heads, x, y, input_range="standard"):
    """D² of images in [0, 1]."""
    fed = [((2 * image - 1 if input_range == "standard" else image) - SHIFT) / SCALE for image in (x, y)]
    total = torch.zeros(len(x))
    both = [activations(trunk, convolutions, image) for image in fed]
    for head, a, b in zip(heads, *both, strict=True):
        unit = [act / (act.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for act in (a, b)]
        total = total + F.conv2d((unit[0] - unit[1]) ** 2, head.view(1, -1, 1, 1)).mean(dim=(1, 2, 3))
    return total
