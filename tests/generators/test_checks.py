"""A module that does not behave as a generator is refused in one sentence with the cause; every other one passes."""

import re

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from small_generators import Net, always
from torch import nn

from pullback.errors import PullbackError
from pullback.generators import base
from pullback.generators.checks import check_generator, check_once, notes_of

GOOD = {
    "plain": Net(),
    "grey": Net(channels=1),
    "in double precision": Net().double(),
    "in half precision": Net().half(),
    "in bfloat16": Net().bfloat16(),
    "with parameters that need no gradient": Net().requires_grad_(False),
    "with a list of classes": Net(classes=["a", "b"]),
    "with classes by index": Net(classes={0: "a", 1: "b"}),
    "with a number called classes": Net(classes=10),
    "with text called classes": Net(classes="abc"),
    "with modules called classes": Net(classes=nn.ModuleList([nn.Linear(2, 2)])),
    "with modules called blocks": Net(blocks=nn.ModuleList([nn.Linear(2, 2)])),
    "with a number called blocks": Net(blocks=3),
    "with a size of numpy's": Net(latent_dim=np.int64(4)),
    "with a size as a float": Net(latent_dim=4.0),
    "with a size as a tensor": Net(latent_dim=torch.tensor(4)),
    "with detached statistics that are not used": Net(lambda net, z: (net.images(z).detach().mean(), net.images(z))[1]),
    "with a mask": Net(lambda net, z: torch.where(net.images(z) > 0.5, net.images(z), 0.5 * net.images(z))),
    "with a buffer of noise": Net(lambda net, z: net.images(z) * 0.5 + 0.1 * torch.ones(1, 3, 8, 8).to(z)),
    "with one seeded noise for all": Net(
        lambda net, z: (
            net.images(z) * 0.5 + 0.1 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(z)
        )
    ),
}


@pytest.mark.parametrize("generator", GOOD.values(), ids=GOOD)
def test_a_generator_passes(generator):
    check_generator(generator, "mine")


def test_parameters_keep_their_need_of_gradients():
    generator = Net()
    generator.linear.bias.requires_grad_(False)
    check_generator(generator, "mine")
    assert generator.linear.weight.requires_grad
    assert not generator.linear.bias.requires_grad


FORMS = {
    "no latent size": (Net(latent_dim=None), "needs an attribute `latent_dim`, .* it has None"),
    "a latent size under another name": (Net(latent_dim=None, z_dim=4), r"latent_dim = 4"),
    "a latent size of what it wraps": (nn.DataParallel(Net()), r"its part `module` has one"),
    "a latent size of 0": (Net(latent_dim=0), "needs an attribute `latent_dim`, .* it has 0"),
    "a latent size of 4.5": (Net(latent_dim=4.5), "needs an attribute `latent_dim`, .* it has 4.5"),
    "a latent size of True": (Net(latent_dim=True), "needs an attribute `latent_dim`, .* it has True"),
    "a latent shape": (Net(latent_dim=(4,)), "needs an attribute `latent_dim`.*reshape"),
    "channels last": (always(lambda x: x.permute(0, 2, 3, 1)), r"gave \(2, 8, 8, 3\) .*permute\(0, 3, 1, 2\)"),
    "four channels": (always(lambda x: torch.cat([x, x[:, :1]], 1)), r"gave \(2, 4, 8, 8\) for 2 codes.*x\[:, :3\]"),
    "one image": (always(lambda x: x[:1]), r"gave \(1, 3, 8, 8\) for 2 codes"),
    "flat images": (always(lambda x: x.flatten(1)), r"gave \(2, 192\) for 2 codes.*reshape"),
    "no channels": (always(lambda x: x[:, 0]), r"gave \(2, 8, 8\) for 2 codes.*x\[:, None\]"),
    "a tuple": (always(lambda x: (x, None)), r"gave tuple of 2 .*x\[0\]"),
    "a tuple with its images last": (always(lambda x: (None, x)), r"gave tuple of 2 .*x\[1\]"),
    "a list of images": (always(list), r"gave list of 2 .*torch\.stack"),
    "an image at several sizes": (always(lambda x: [x, x.repeat(1, 1, 2, 2)]), r"x\[1\], which is \[2, 3, 16, 16\]"),
    "features beside its images": (always(lambda x: (x.repeat(1, 8, 4, 4), x)), r"x\[1\], which is \[2, 3, 8, 8\]"),
    "a dict": (always(lambda x: {"sample": x}), r"gave dict with the keys sample.*x\['sample'\]"),
    "numpy's images": (always(lambda x: x.detach().numpy()), "gave ndarray.*torch tensor"),
    "nothing": (Net(lambda net, z: None), "gave NoneType"),
    "uint8": (always(lambda x: (255 * x).to(torch.uint8)), r"images of torch\.uint8.*floats in \[0, 1\]"),
    "images in [-1, 1]": (always(lambda x: 2 * x - 1), r"values from -.*must be in \[0, 1\] .*\(x \+ 1\) / 2"),
    "images in [-0.4, 0.4]": (always(lambda x: 0.8 * x - 0.4), r"values from -0\..*\(x \+ 1\) / 2"),
    "images in [0, 255]": (always(lambda x: 255 * x), "values from .* x / 255"),
    "normalised images": (always(lambda x: (x - 0.45) / 0.22), r"values from -.*x \* std \+ mean"),
    "NaN": (always(lambda x: x * torch.nan), "gives images that are not finite .*NaN"),
    "infinity": (always(lambda x: x / 0), "gives images that are not finite .*infinite"),
    "the same image for all codes": (always(lambda x: 0 * x + 0.5), "the same image for 8 codes"),
    "noise": (always(lambda x: torch.rand(len(x), 3, 8, 8)), "another image for the same code.*rand, test_checks.py"),
    "faint noise": (always(lambda x: 0.9 * x + 1e-4 * torch.rand_like(x)), "another image for the same code"),
    "a failure": (Net(lambda net, z: z @ torch.zeros(9, 9)), r"failed on codes \(2, 4\): RuntimeError"),
    "training mode": (Net(drop=nn.Dropout(0.5)).train(), r"training mode.*call its \.eval"),
}


@pytest.mark.parametrize(("generator", "message"), FORMS.values(), ids=FORMS)
def test_what_the_metric_could_not_trust_is_refused_in_a_sentence(generator, message):
    with pytest.raises(PullbackError, match=f"mine .*{message}") as caught:
        check_generator(generator, "mine")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 450


def test_a_generator_that_needs_a_second_argument_says_what_it_is_called_with():
    class Conditional(Net):
        def forward(self, z, label):
            return self.images(z)

    with pytest.raises(PullbackError, match=r"called with codes alone.*`classes`"):
        check_generator(Conditional(), "mine")
    check_generator(Conditional(classes=("a", "b")), "mine")


def test_a_buffer_that_each_call_changes_is_named():
    class Averaging(Net):
        def forward(self, z):
            self.average.lerp_(z.mean(0), 0.1)
            return self.images(self.average + 0.7 * (z - self.average))

    generator = Averaging()
    generator.register_buffer("average", torch.zeros(4))
    with pytest.raises(PullbackError, match="each call changes its buffer average"):
        check_generator(generator, "mine")


def test_images_that_depend_on_the_class_alone_are_refused():
    class OfClass(Net):
        def forward(self, z, label):
            return (0.1 + 0.2 * label.to(z))[:, None, None, None].expand(-1, 3, 8, 8) + 0 * z.sum()

    with pytest.raises(PullbackError, match="the same image for"):
        check_generator(OfClass(classes=("a", "b")), "mine")


def test_images_that_are_equal_for_some_codes_only_pass():
    check_generator(Net(lambda net, z: net.images(z) * (z.norm(dim=1) > 2.2).to(z)[:, None, None, None]), "mine")


def seeded(z, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).to(z)


COUPLED = {
    "seeded noise for each row": (
        lambda net, z: 0.5 * net.images(z) + 0.1 * seeded(z, len(z), 1, 8, 8).sigmoid(),
        "at another place in the batch.*randn, test_checks.py, line",
    ),
    "faint noise for each row": (
        lambda net, z: 0.9 * net.images(z) + 1e-3 * seeded(z, len(z), 1, 8, 8).sigmoid(),
        "at another place in the batch",
    ),
    "the place in the batch": (
        lambda net, z: 0.5 * net.images(z) + 0.1 * torch.arange(len(z)).to(z)[:, None, None, None],
        "at another place in the batch",
    ),
    "the batch's mean": (
        lambda net, z: 0.5 * net.images(z) + 0.1 * torch.tanh(z.mean()),
        "a code alone than for the same code in a batch",
    ),
    "the deviation over the batch": (
        lambda net, z: 0.5 * net.images(z) + 0.3 * z.std(dim=0, unbiased=False).mean().tanh(),
        "a code alone than for the same code in a batch",
    ),
    "noise of the batch's size": (
        lambda net, z: 0.5 * net.images(z) + 0.1 * len(z),
        "a code alone than for the same code in a batch",
    ),
}


@pytest.mark.parametrize(("change", "message"), COUPLED.values(), ids=COUPLED)
def test_images_that_depend_on_their_batch_are_refused_by_the_cause(change, message):
    with pytest.raises(PullbackError, match=f"mine .*{message}"):
        check_generator(Net(change), "mine")


def test_a_norm_without_statistics_is_named():
    net = Net(lambda net, z: torch.sigmoid(net.norm(net.images(z))), norm=nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(PullbackError, match=r"BatchNorm2d 'norm' has no running statistics"):
        check_generator(net, "mine")


def test_a_generator_that_fails_on_one_code_alone_is_refused_without_a_traceback():
    def two(net, z):
        if len(z) < 2:
            raise ValueError("needs two\nand more")
        return net.images(z)

    with pytest.raises(PullbackError, match=r"failed on codes \(1, 4\): ValueError: needs two$"):
        check_generator(Net(two), "mine")


@pytest.fixture
def passes(monkeypatch):
    """How many passes checks have made."""
    made = []
    original = base.generate
    for module in ("checks", "differentiability"):
        monkeypatch.setattr(
            f"pullback.generators.{module}.generate", lambda *given: (made.append(1), original(*given))[1]
        )
    return made


def test_a_module_that_stays_as_it_is_is_checked_once(passes):
    net = Net()
    check_once(net)
    before = len(passes)
    check_once(net)
    assert len(passes) == before > 0


CHANGES = {
    "half": lambda net: net.half(),
    "other parameters": lambda net: setattr(net, "linear", nn.Linear(4, 192)),
    "a parameter replaced": lambda net: setattr(net.linear, "bias", nn.Parameter(torch.zeros(192))),
    "loaded weights": lambda net: net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()}),
    "a step of an optimizer": lambda net: net.linear.bias.data is None or net.linear.bias.detach().add_(0.1),
    "another size of the code": lambda net: setattr(net, "latent_dim", np.int64(4)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_module_that_changed_is_checked_again(passes, change):
    net = Net()
    check_once(net)
    before = len(passes)
    change(net)
    check_once(net)
    assert len(passes) > before


def test_a_module_that_was_put_into_training_mode_since_is_refused():
    net = Net(lambda net, z: net.drop(net.images(z)), drop=nn.Dropout(0.5))
    check_once(net)
    net.train()
    with pytest.raises(PullbackError, match="training mode"):
        check_once(net)
    net.eval()
    check_once(net)


def test_weights_that_became_nan_are_refused():
    net = Net()
    check_once(net)
    with torch.no_grad():
        net.linear.weight[0, 0] = torch.nan
    with pytest.raises(PullbackError, match="not finite"):
        check_once(net)


def test_one_channel_is_noted():
    grey, coloured = Net(channels=1), Net()
    check_once(grey)
    check_once(coloured)
    assert any("one channel" in note for note in notes_of(grey))
    assert notes_of(coloured) == ()


def test_double_precision_is_noted():
    generator = Net().double()
    check_once(generator)
    assert any("float64" in note for note in notes_of(generator))


def test_parts_in_half_precision_are_noted_with_their_line():
    def automatic(net, z):
        images = net.images(z)
        with torch.autocast("cpu", torch.bfloat16):
            return images + 1e-4 * net.images(z).float()

    coarse = Net(automatic)
    check_once(coarse)
    assert any(re.search(r"bfloat16 .*small_generators\.py, line", note) for note in notes_of(coarse))


WRAPPED = {
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "spectral norm": lambda: Net(extra=nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))),
    "checkpointed": lambda: Net(lambda net, z: torch.utils.checkpoint.checkpoint(net.images, z, use_reentrant=False)),
    "with a derivative of its own inside": lambda: Net(
        lambda net, z: net.images(z) + 0 * torch.func.jvp(net.images, (z,), (z,))[1]
    ),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_what_torch_wraps_around_a_generator_is_no_reason_to_refuse(make):
    check_generator(make(), "mine")


def test_what_torch_compiled_runs_as_plain_python():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    check_generator(torch.compile(Net(), backend=backend), "mine")
    check_generator(Net(torch.compile(lambda net, z: net.images(z), backend=backend)), "mine")
    assert not compiled
