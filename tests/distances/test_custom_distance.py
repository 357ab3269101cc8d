"""A user's own function as a distance: of one argument a residual, of two a squared distance."""

import hashlib
import sys
from pathlib import Path

import pytest
import small_distances
import torch
from small_distances import brightness, logarithmic, some_images

from pullback.distances import ResidualDistance, ScalarDistance, load_distance
from pullback.errors import PullbackError, SpecError


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes `their_distances.py` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source):
        sys.modules.pop("their_distances", None)
        (tmp_path / "their_distances.py").write_text(source)

    yield write
    sys.modules.pop("their_distances", None)


def test_a_function_of_one_argument_is_a_residual():
    distance = load_distance("small_distances:brightness", device="cpu")
    x, y = some_images(1), some_images(2)
    assert isinstance(distance, ResidualDistance)
    assert torch.equal(distance.residual(x), brightness(x))
    assert torch.allclose(distance(x, y), ((brightness(x) - brightness(y)) ** 2).sum(dim=1))


def test_a_function_of_two_arguments_is_a_squared_distance():
    distance = load_distance("small_distances:logarithmic", device="cpu")
    x, y = some_images(1), some_images(2, batch=1)
    assert isinstance(distance, ScalarDistance)
    assert torch.equal(distance(x, y), logarithmic(x, y.expand(2, -1, -1, -1)))


def test_an_argument_with_a_default_is_left_at_it():
    x = some_images(1)
    distance = load_distance("small_distances:with_option", device="cpu")
    assert torch.equal(distance.residual(x), x.flatten(1) ** 2)


@pytest.mark.parametrize("name", ["small_distances:gradients", "small_distances:logarithmic"])
def test_the_function_is_given_clamped_and_resized_images(name):
    plain, prepared = (load_distance(name, device="cpu", **options) for options in ({}, {"clamp": True, "size": 16}))
    x, y = 1.2 * some_images(1, size=16), some_images(2, size=16)
    assert torch.equal(prepared(x, y), plain(x.clamp(0, 1), y))
    assert prepared(some_images(1, size=8), some_images(2, size=8)).shape == (2,)


def test_the_source_of_the_function_is_recorded():
    expected = hashlib.sha256(Path(small_distances.__file__).read_bytes()).hexdigest()
    distance = load_distance("small_distances:brightness", device="cpu")
    assert (distance.name, distance.weights) == ("small_distances:brightness", {"small_distances (source)": expected})


def test_a_function_in_the_working_directory_is_found(user_module):
    user_module("def mine(images): return images.flatten(1)")
    assert load_distance("their_distances:mine", device="cpu").residual(some_images(1)).shape == (2, 108)


NOISY = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 50), torch.nn.Dropout(0.5))
        self.weights = {weights}
    def forward(self, {arguments}):
        return {value}
net = Net()
"""


@pytest.mark.parametrize(
    ("arguments", "value", "kind"),
    [
        ("images", "self.inner(images)", ResidualDistance),
        ("x, y", "(self.inner(x) - self.inner(y)).square().sum(dim=1)", ScalarDistance),
    ],
)
def test_a_torch_module_is_a_function_of_its_arguments_in_evaluation_mode(user_module, arguments, value, kind):
    source = NOISY.format(weights={"net.pth": "abc"}, arguments=arguments, value=value)
    user_module(source)
    distance = load_distance("their_distances:net", device="cpu")
    x, y = some_images(1), some_images(2)
    assert isinstance(distance, kind)
    assert distance(x, x).tolist() == [0, 0]
    assert bool((distance(x, y) > 0).all())
    assert torch.equal(distance(x, y), distance(x, y))
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert distance.weights == {
        "net.pth": "abc",
        "their_distances (source)": hashlib.sha256(source.encode()).hexdigest(),
    }


def test_a_modules_parameter_may_be_called_weights(user_module):
    user_module(NOISY.format(weights="torch.nn.Parameter(torch.ones(1))", arguments="x", value="self.inner(x)"))
    assert list(load_distance("their_distances:net", device="cpu").weights) == ["their_distances (source)"]


WRONG_VALUES = {
    "a residual of images": ("images", r"\[2, 3, 6, 6\]", r"a residual \[2, m\] of real numbers"),
    "a residual of the batch as a whole": ("images.flatten()", r"\[216\]", r"a residual \[2, m\]"),
    "a residual without its batch": ("images.mean(dim=0).flatten(1)", r"\[3, 36\]", r"a residual \[2, m\]"),
    "a residual of whole numbers": ("images.flatten(1).long()", r"\[2, 108\] of torch.int64", r"a residual \[2, m\]"),
    "a list as a residual": ("[1, 2]", "list", r"a residual \[2, m\]"),
}
WRONG_SCALARS = {
    "one number for all": ("((x - y) ** 2).mean()", r"\[\]", r"squared distances \[2\] of real numbers"),
    "a column": ("((x - y) ** 2).mean(dim=(1, 2, 3))[:, None]", r"\[2, 1\]", r"squared distances \[2\]"),
    "one for each channel": ("((x - y) ** 2).mean(dim=(0, 2, 3))", r"\[3\]", r"squared distances \[2\]"),
    "a number of Python": ("0.0", "float", r"squared distances \[2\]"),
}


@pytest.mark.parametrize(("value", "found", "needed"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_residual_of_another_shape_is_refused_on_first_use(user_module, value, found, needed):
    user_module(f"def mine(images): return {value}")
    distance = load_distance("their_distances:mine", device="cpu")
    with pytest.raises(ValueError, match=f"^their_distances:mine gave {found}.*{needed}"):
        distance.residual(some_images(1))


@pytest.mark.parametrize(("value", "found", "needed"), WRONG_SCALARS.values(), ids=WRONG_SCALARS)
def test_a_squared_distance_of_another_shape_is_refused_on_first_use(user_module, value, found, needed):
    user_module(f"def mine(x, y): return {value}")
    distance = load_distance("their_distances:mine", device="cpu")
    with pytest.raises(ValueError, match=f"^their_distances:mine gave {found}.*{needed}"):
        distance(some_images(1), some_images(2))


WRONG_SIGNATURES = {
    "none": ("def mine(): pass", r"takes \(\)"),
    "three": ("def mine(a, b, c): pass", r"takes \(a, b, c\)"),
    "any number": ("def mine(*images): pass", r"takes \(\*images\)"),
    "one that has to be named": ("def mine(x, *, y): pass", r"takes \(x, \*?,? ?y\)"),
}


@pytest.mark.parametrize(("source", "problem"), WRONG_SIGNATURES.values(), ids=WRONG_SIGNATURES)
def test_a_function_of_another_number_of_arguments_is_refused(user_module, source, problem):
    user_module(source)
    with pytest.raises(SpecError, match=rf"name: their_distances:mine {problem}; f\(images\) -> \[batch, m\], or"):
        load_distance("their_distances:mine", device="cpu")


def test_a_function_whose_arguments_cannot_be_read_is_refused(user_module):
    user_module("mine = dict.fromkeys.__self__ and type('T', (), {'__signature__': 3, '__call__': lambda s: 0})()")
    with pytest.raises(SpecError, match="the arguments of their_distances:mine cannot be read"):
        load_distance("their_distances:mine", device="cpu")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("no_such_module:f", SpecError, r"name: no_such_module cannot be imported"),
        ("small_distances:brightnes", SpecError, r"has no function 'brightnes'; did you mean 'brightness'\?"),
        ("small_distances:DISTANCES", SpecError, "has no function 'DISTANCES'"),
        ("their_distances:mine", PullbackError, "importing their_distances failed: ZeroDivisionError"),
        ("small_distances:", SpecError, r"name: 'small_distances:' is not of the form 'module:function'"),
        ("a b:c", SpecError, r"name: 'a b:c' is not of the form 'module:function'"),
    ],
)
def test_a_function_that_is_not_there_is_reported(user_module, name, kind, message):
    user_module("1 / 0")
    with pytest.raises(kind, match=message):
        load_distance(name, device="cpu")


def test_what_the_function_itself_raises_is_not_hidden(user_module):
    user_module("def mine(images): raise KeyError('theirs')")
    with pytest.raises(KeyError, match="theirs"):
        load_distance("their_distances:mine", device="cpu").residual(some_images(1))
