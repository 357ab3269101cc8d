"""Generators by name, by path and by factory; whatever cannot be one is refused with what to do about it."""

import importlib
import re
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from dcgan_files import EYES_CLASSES, EYES_WIDTHS, network, save_eyes, save_faces, state_dict_of
from pullback.errors import PullbackError, SpecError, WeightsError
from pullback.generators import Generator, any_condition, class_indices, generate, load_generator, zoo
from pullback.generators.registry import ZooEntry, resolve_device
from pullback.generators.user_code import declared_weights
from weight_files import sha256


class Plain(nn.Module):
    latent_dim = 4


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes `their_code.py` into the working directory, from which factories are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        (tmp_path / "their_code.py").write_text(textwrap.dedent(text))
        sys.modules.pop("their_code", None)

    yield write
    sys.modules.pop("their_code", None)


def test_the_zoo_has_the_trained_generators():
    assert zoo()["dcgan-faces"].image_size == 64
    assert len(zoo()["dcgan-eyes"].classes) == 8


@pytest.mark.weights
@pytest.mark.parametrize("name", ["faces", "eyes"])
def test_a_registered_generator_is_as_the_zoo_says(request, name):
    generator, entry = request.getfixturevalue(name), zoo()[f"dcgan-{name}"]
    assert generator.name == f"dcgan-{name}"
    assert generator.latent_dim == entry.latent_dim
    assert generator.classes == entry.classes
    assert list(generator.weights) == [entry.weights]
    assert re.fullmatch("[0-9a-f]{64}", generator.weights[entry.weights])
    z = torch.zeros(1, entry.latent_dim)
    assert generate(generator, z, any_condition(generator, 1, z.device)).shape[-2:] == (entry.image_size,) * 2


def test_a_registered_generator_takes_weights_of_ones_own(tmp_path):
    path = tmp_path / "mine.pth"
    main = save_faces(path)
    generator = load_generator("dcgan-faces", weights=path, device="cpu")
    z = torch.randn(2, generator.latent_dim)
    assert generator.name == "dcgan-faces"
    assert generator.weights == {"dcgan-faces": sha256(path.read_bytes())}
    assert torch.allclose(generator(z), (main(z[:, :, None, None]) + 1) / 2, atol=1e-6)


def test_weights_of_ones_own_that_are_not_there_are_reported(tmp_path):
    with pytest.raises(WeightsError, match=r"no weight file .*none\.pth"):
        load_generator("dcgan-faces", weights=tmp_path / "none.pth", device="cpu")


def test_a_registered_generator_whose_weights_are_not_here_says_how_to_get_them(weight_places):
    with pytest.raises(WeightsError, match="pullback weights fetch dcgan-faces"):
        load_generator("dcgan-faces", device="cpu")


def test_a_registered_conditional_generator_knows_its_classes(tmp_path, monkeypatch):
    save_eyes(tmp_path / "eyes.pth")
    entry = ZooEntry(
        family="dcgan", what="", weights="w", latent_dim=EYES_WIDTHS[0] - 3, image_size=128, classes=EYES_CLASSES
    )
    # the package's attribute `zoo` is the function, not the module
    monkeypatch.setattr(importlib.import_module("pullback.generators.registry"), "zoo", lambda: {"small-eyes": entry})
    generator = load_generator("small-eyes", weights=tmp_path / "eyes.pth", device="cpu")
    assert generator.classes == EYES_CLASSES
    assert class_indices(generator, "cycle", range(4)).tolist() == [0, 1, 2, 0]


def test_the_path_of_a_checkpoint_is_a_generator(tmp_path):
    path = tmp_path / "mine.tar"
    main = save_faces(path)
    generator = load_generator(str(path), device="cpu")
    z = torch.randn(2, generator.latent_dim)
    assert generator.name == "mine.tar"
    assert generator.weights == {"mine.tar": sha256(path.read_bytes())}
    assert torch.allclose(generator(z), (main(z[:, :, None, None]) + 1) / 2, atol=1e-6)


def test_the_path_of_a_checkpoint_takes_no_second_weight_file(tmp_path):
    save_faces(tmp_path / "mine.tar")
    with pytest.raises(SpecError, match=r"^weights: "):
        load_generator(str(tmp_path / "mine.tar"), weights=tmp_path / "mine.tar", device="cpu")


def test_a_checkpoint_of_grey_images_is_a_generator(tmp_path):
    torch.save(state_dict_of(network((5, 8, 1))), tmp_path / "grey.pth")
    generator = load_generator(str(tmp_path / "grey.pth"), device="cpu")
    assert generator(torch.randn(2, 5)).shape == (2, 1, 8, 8)


def test_a_checkpoint_of_images_with_two_channels_is_refused(tmp_path):
    torch.save(state_dict_of(network((5, 8, 2))), tmp_path / "two.pth")
    with pytest.raises(PullbackError, match=r"gave \(2, 2, 8, 8\) for 2 codes"):
        load_generator(str(tmp_path / "two.pth"), device="cpu")


def test_a_factory_of_an_importable_module_is_called():
    generator = load_generator("toy_generators:linear", device="cpu")
    assert generator.latent_dim == 6
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    z = torch.randn(2, 6)
    expected = 0.5 + torch.einsum("pn,bn->bp", generator.matrix, z).view(2, 3, 8, 8)
    assert torch.allclose(generator(z), expected, atol=1e-6)


def test_a_class_conditional_factory_is_tried_with_its_classes():
    assert load_generator("toy_generators:classes", device="cpu").classes == ("one", "two", "three")


def test_a_factory_in_the_working_directory_is_found(user_module):
    user_module(
        """
        import torch

        class Mine(torch.nn.Module):
            latent_dim = 2

            def forward(self, z):
                return z.sum(1).sigmoid()[:, None, None, None].expand(-1, 3, 4, 4)

        make = Mine
        """
    )
    sys.path[:] = [entry for entry in sys.path if entry != ""]
    generator = load_generator("their_code:make", device="cpu")
    assert generator.name == "their_code:make"
    assert generator.latent_dim == 2


OWN_WEIGHTS = {
    "a parameter": "        self.weights = torch.nn.Parameter(torch.ones(1))",
    "modules": "        self.weights = torch.nn.ModuleList([torch.nn.Linear(1, 1)])",
    "a method": "    def weights(self):\n        return 1",
}


@pytest.mark.parametrize("own", OWN_WEIGHTS.values(), ids=OWN_WEIGHTS)
def test_a_part_that_is_called_weights_stays_what_it_is(user_module, own):
    text = (
        "import torch\nclass Net(torch.nn.Module):\n    latent_dim = 2\n    def __init__(self):\n"
        f"        super().__init__()\n{own}\n"
        "    def forward(self, z):\n"
        "        return z.sum(1).sigmoid()[:, None, None, None].expand(-1, 3, 4, 4)\nmake = Net\n"
    )
    user_module(text)
    generator = load_generator("their_code:make", device="cpu")
    assert not isinstance(generator.weights, dict)
    assert list(declared_weights(generator)) == ["their_code (source)"]


def test_a_factory_loads_its_own_weights():
    with pytest.raises(SpecError, match=r"^weights: "):
        load_generator("toy_generators:linear", weights="x.pth", device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dcgan-face", "'dcgan-face' is neither registered nor a file; did you mean 'dcgan-faces'?"),
        ("missing.pth", "'missing.pth' is neither registered nor a file"),
        ("", "'' is neither registered nor a file"),
        ("toy_generators:", "'toy_generators:' is neither registered nor a file"),
        (".toy:linear", "'.toy:linear' is neither registered nor a file"),
        ("toy_generators.py:linear", "did you mean 'toy_generators:linear'?"),
        ("tests/toy_generators.py:linear", "did you mean 'tests.toy_generators:linear'?"),
        ("tests.toy_generators.linear", "did you mean 'tests.toy_generators:linear'?"),
        ("tests/toy_generators.py", "name the function in it that makes the generator, tests.toy_generators:FUNCTION"),
        ("no_such_module:make", "no_such_module cannot be imported: No module named"),
        ("toy_generators:liner", "the module toy_generators has no function 'liner'; did you mean 'linear'?"),
        ("toy_generators:__name__", "the module toy_generators has no function '__name__'"),
    ],
)
def test_an_unknown_generator_is_reported_with_what_was_looked_for(name, message):
    with pytest.raises(SpecError) as caught:
        load_generator(name, device="cpu")
    assert message in str(caught.value)
    assert caught.value.problems[0].startswith("name: ")


THEIR_FAULTS = {
    "a module that raises": ("raise ValueError('oh')", PullbackError, "importing their_code failed: ValueError: oh"),
    "a module that is no Python": ("def (", PullbackError, "importing their_code failed: SyntaxError"),
    "a module that needs another": ("import no_such", SpecError, "cannot be imported: No module named 'no_such'"),
    "an attribute missing in a module": (
        "import sys; sys.nope",
        PullbackError,
        "importing their_code failed: Attribute",
    ),
    "a factory that raises": ("def make(): 1 / 0", PullbackError, "their_code:make failed: ZeroDivisionError"),
    "a factory with arguments": ("def make(x): pass", PullbackError, r"their_code:make\(x\) needs x; give it here"),
    "a factory of something else": ("def make(): return 3", PullbackError, "gave int; it must give a torch.nn.Module"),
    "a module whose weights are no hashes": (
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.weights = [1.0, 2.0]\nmake = Net",
        PullbackError,
        "generator of their_code:make has `weights` that are list; that attribute is for the SHA-256",
    ),
    "a module without a latent size": (
        "import torch\ndef make(): return torch.nn.Linear(3, 3)",
        PullbackError,
        "needs an attribute `latent_dim`, .*; it has None",
    ),
}


@pytest.mark.parametrize(("text", "error", "message"), THEIR_FAULTS.values(), ids=THEIR_FAULTS)
def test_a_fault_in_a_users_module_is_reported_as_theirs(user_module, text, error, message):
    user_module(text)
    with pytest.raises(error, match=message):
        load_generator("their_code:make", device="cpu")


@pytest.mark.parametrize(("given", "wanted"), [("cpu", "cpu"), (torch.device("cpu"), "cpu")])
def test_a_device_that_is_named_is_taken(given, wanted):
    assert resolve_device(given) == torch.device(wanted)


@pytest.mark.parametrize("there", [True, False])
def test_auto_takes_the_gpu_where_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == ("cuda" if there else "cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="'cpu'"):
        resolve_device("cuda")


def test_a_device_that_torch_does_not_know_is_refused():
    with pytest.raises(SpecError, match=r"'cudaa'.*'cuda'"):
        resolve_device("cudaa")


class Coloured(Generator):
    name = "coloured"
    latent_dim = 2
    classes = ("amber", "blue", "green")


CHOICES = {
    "a name": ("blue", [1, 1, 1, 1]),
    "an index": (2, [2, 2, 2, 2]),
    "numpy's index": (np.int64(1), [1, 1, 1, 1]),
    "a tensor's index": (torch.tensor(1), [1, 1, 1, 1]),
    "names": (["green", "amber", "blue", "blue"], [2, 0, 1, 1]),
    "names and indices": (["green", 0, 1, "blue"], [2, 0, 1, 1]),
    "a tensor": (torch.tensor([0, 1, 2, 0]), [0, 1, 2, 0]),
    "in turn": ("cycle", [2, 0, 1, 2]),
}


@pytest.mark.parametrize(("condition", "expected"), CHOICES.values(), ids=CHOICES)
def test_the_classes_of_samples_are_chosen(condition, expected):
    chosen = class_indices(Coloured(), condition, range(5, 9))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected


def test_the_class_of_a_sample_in_turn_belongs_to_its_index_alone():
    whole = class_indices(Coloured(), "cycle", range(10))
    parts = [class_indices(Coloured(), "cycle", range(start, start + 2)) for start in range(0, 10, 2)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(class_indices(Coloured(), "cycle", [7, 1]), whole[[7, 1]])


def test_a_generator_without_classes_takes_no_condition():
    assert class_indices(Plain(), None, range(3)) is None
    assert any_condition(Plain(), 3, torch.device("cpu")) is None
    with pytest.raises(SpecError, match=r"Plain.*'blue'"):
        class_indices(Plain(), "blue", range(3))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "coloured is class-conditional; choose one of amber, blue, green, or cycle"),
        ("blu", "no class 'blu'; did you mean 'blue'?"),
        ("cicle", "no class 'cicle'; did you mean 'cycle'?"),
        (3, "no class 3; choose one of amber"),
        (-1, "no class -1; choose one of amber"),
        (["blue", "red"], "no class 'red'"),
        (["blue", None], "no class None"),
        (1.5, "no class 1.5"),
        (["blue"] * 3, "3 classes for 2 codes"),
        ([], "0 classes for 2 codes"),
    ],
)
def test_a_wrong_condition_is_refused(condition, message):
    with pytest.raises(SpecError) as caught:
        class_indices(Coloured(), condition, range(2))
    assert message in str(caught.value)
    assert caught.value.problems[0].startswith("condition: ")


def test_any_condition_tries_the_classes_in_turn():
    assert any_condition(Coloured(), 4, torch.device("cpu")).tolist() == [0, 1, 2, 0]


def test_a_generator_without_a_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Coloured must implement forward\(z, condition\)"):
        Coloured()(torch.zeros(1, 2))


def test_one_gpu_is_chosen_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SpecError, match="no cuda:2"):
        resolve_device("cuda:2")
