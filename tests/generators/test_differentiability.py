"""Images without a derivative in the code are refused, with the line of the user's code that removes it."""

import re

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from small_generators import Net, always
from torch import nn

from pullback.errors import PullbackError
from pullback.generators.checks import check_generator


class Unrecorded(Net):
    @torch.no_grad()
    def forward(self, z):
        return self.images(z)


class Inferred(Net):
    @torch.inference_mode()
    def forward(self, z):
        return self.images(z)


def written_in_place(net, z):
    x = torch.zeros(len(z), 3, 8, 8).to(z)
    x.data.add_(net.images(z).data)
    return x


def through_pil(net, z):
    from PIL import Image

    arrays = net.images(z).detach().mul(255).byte().permute(0, 2, 3, 1).numpy()
    images = [np.asarray(Image.fromarray(array)) for array in arrays]
    return torch.as_tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def quantized(net, z):
    book = torch.linspace(-2, 2, 64).to(z)
    return net.images(book[(z[:, :, None] - book).abs().argmin(-1)])


def straight_through(net, z):
    x = net.images(z)
    return x + ((255 * x).round() / 255 - x).detach()


UNDIFFERENTIABLE = {
    "no_grad": (Unrecorded(), r"no_grad\(\)"),
    "no_grad inside": (Net(lambda net, z: torch.no_grad()(net.images)(z)), r"no_grad\(\)"),
    "inference_mode": (Inferred(), r"inference_mode\(\)"),
    "detach": (always(lambda x: x.detach()), r"\.detach\(\)"),
    "data": (always(lambda x: x.data), r"\.data"),
    "in-place data": (Net(written_in_place), r"\.data"),
    "numpy": (always(lambda x: torch.from_numpy(x.detach().numpy())), r"numpy"),
    "numpy without detach": (always(lambda x: torch.from_numpy(x.numpy())), r"numpy"),
    "lists": (always(lambda x: torch.tensor(x.tolist())), r"numpy.*tolist"),
    "PIL": (Net(through_pil), "PIL"),
    "uint8 and back": (always(lambda x: (255 * x).to(torch.uint8).float() / 255), "integers"),
    "bytes and back": (always(lambda x: (255 * x).byte() / 255), "integers"),
    "round": (always(lambda x: (255 * x).round() / 255), "rounds"),
    "floor": (always(lambda x: torch.floor(255 * x) / 255), "rounds"),
    "a copy": (always(lambda x: torch.tensor(x.detach().clone())), "detach"),
    "codes of a book": (Net(quantized), "integers"),
    "detached codes": (Net(lambda net, z: net.images(z.detach())), r"\.detach\(\)"),
    "half of the code": (
        Net(lambda net, z: net.images(torch.cat([z[:, :2], z[:, 2:].detach()], 1))),
        r"a part of its derivative.*\.detach\(\)",
    ),
    "a rounded half": (
        Net(lambda net, z: net.images(torch.cat([z[:, :2], (50 * z[:, 2:]).round() / 50], 1))),
        "a part of its derivative.*rounds",
    ),
    "a coordinate through numpy": (
        Net(lambda net, z: net.images(z * torch.from_numpy(1 + np.tanh(z.detach().numpy())))),
        "a part of its derivative.*numpy",
    ),
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize(("generator", "cause"), UNDIFFERENTIABLE.values(), ids=UNDIFFERENTIABLE)
@pytest.mark.parametrize("frozen", [True, False])
def test_images_without_a_derivative_are_refused_with_the_line_that_takes_it(generator, cause, frozen):
    generator.requires_grad_(not frozen)
    with pytest.raises(PullbackError, match=f"mine .*{cause}") as caught:
        check_generator(generator, "mine")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "derivative" in message
    assert re.search(r"(test_differentiability|small_generators)\.py, line \d+", message)


class Wide(Net):
    """With 128 coordinates, which `code` changes before the network sees them."""

    def __init__(self, code):
        super().__init__(latent_dim=128)
        self.code, self.first = code, nn.Linear(128, 4)
        with torch.no_grad():
            self.first.weight.copy_(torch.randn(4, 128, generator=torch.Generator().manual_seed(2)) / 8)

    def forward(self, z):
        return self.images(torch.nn.functional.leaky_relu(self.first(self.code(z))))


LOST_ALONG_ONE = {
    "norm": lambda z: z / z.detach().norm(dim=1, keepdim=True) * 128**0.5,
    "mean": lambda z: z - z.detach().mean(1, keepdim=True),
    "standard deviation": lambda z: (z - z.mean(1, keepdim=True)) / z.detach().std(1, keepdim=True),
    "norm by numpy": lambda z: z / torch.from_numpy(np.linalg.norm(z.detach().numpy(), axis=1, keepdims=True)),
}


@pytest.mark.parametrize("code", LOST_ALONG_ONE.values(), ids=LOST_ALONG_ONE)
def test_a_derivative_that_lacks_one_direction_of_many_is_refused(code):
    with pytest.raises(PullbackError, match="along the code or its mean: the code"):
        check_generator(Wide(code), "mine")


@pytest.mark.parametrize("seed", [0, 4, 115])
def test_a_normalized_code_with_a_harmless_detach_passes_also_near_a_kink(seed):
    """With the last two seeds a finite difference at the first code crosses a kink of the leaky ReLU."""

    def normalized(z):
        return z / z.norm(dim=1, keepdim=True) * z.detach().sign().abs() * 128**0.5

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the biases
        generator = Wide(normalized)
    check_generator(generator, "mine")


def test_a_derivative_that_lacks_a_part_is_left_to_the_certificate_of_a_single_metric():
    for name in ("round", "half of the code", "a rounded half"):
        check_generator(UNDIFFERENTIABLE[name][0], "mine", strict=False)
    with pytest.raises(PullbackError, match="without a derivative"):
        check_generator(UNDIFFERENTIABLE["detach"][0], "mine", strict=False)


def test_a_function_with_a_derivative_of_its_own_is_left_to_the_certificate():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.detach().clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient / 2

    check_generator(Net(lambda net, z: Halved.apply(net.images(z))), "mine")


def test_a_saturated_generator_passes():
    check_generator(Net(lambda net, z: torch.relu(net.images(z) - 0.9999).clamp(0, 1) + 0.5), "mine")


def test_rounding_with_a_derivative_of_its_own_passes():
    check_generator(Net(straight_through), "mine")


def test_a_network_built_in_inference_mode_is_refused():
    with torch.inference_mode():
        net = Net()
    with pytest.raises(PullbackError, match=r"built under torch\.inference_mode\(\)"):
        check_generator(net, "mine")


def test_an_operation_without_reverse_mode_is_no_reason_to_refuse():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("no reverse mode")

    check_generator(Net(lambda net, z: Doubled.apply(net.images(z)) / 2), "mine")
