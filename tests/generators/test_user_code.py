"""What is recorded of a user's own source: enough to notice every edit that could change a number."""

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
import torch

from pullback.errors import PullbackError, SpecError
from pullback.generators import load_generator
from pullback.generators.user_code import imported, origin_of
from pullback.generators.user_imports import replacing


def forget_modules_of(folder):
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes files into the working directory and gives the hash recorded for a function of theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def hash_of(name, **files):
        forget_modules_of(tmp_path)
        for path, text in files.items():
            file = tmp_path / path.replace("__in__", "/")
            file.parent.mkdir(exist_ok=True)
            file.with_suffix(".py").write_text(text)
        (recorded,) = imported(f"{name}:make", "name")[1].values()
        return recorded

    return hash_of


MAKE = "def make(): pass\n"


def test_of_a_module_alone_its_own_file_counts(written):
    before = written("their_model", their_model=MAKE, their_other="a = 1")
    assert before == hashlib.sha256(MAKE.encode()).hexdigest()
    assert written("their_model", their_other="a = 2") == before
    assert written("their_model", their_model=MAKE + "# edited") != before


def test_of_a_module_in_a_package_its_neighbours_count_too(written):
    files = {"theirs__in____init__": "", "theirs__in__model": MAKE, "theirs__in__layers": "a = 1"}
    before = written("theirs.model", **files)
    assert written("theirs.model", **files) == before
    assert written("theirs.model", **files | {"theirs__in__layers": "a = 2"}) != before
    assert written("theirs.model", **files | {"theirs__in__model": MAKE + "# edited"}) != before


# What users' code does to the process


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


NETWORK = """
import torch
class Net(torch.nn.Module):
    latent_dim = 3
    def forward(self, z):
        return torch.sigmoid(z.repeat(1, 64).view(-1, 3, 8, 8))
make = Net
"""


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.exit(3)\n",
        "import argparse\nargparse.ArgumentParser().parse_args(['--no-such-option'])\n",
        "raise SystemExit\n",
        "def make():\n    raise SystemExit('goodbye')\n",
        "def make():\n    exit(0)\n",
        "class Odd(BaseException): pass\nraise Odd\n",
        NETWORK.replace("return torch", "raise SystemExit(0)\n        return torch"),
    ],
    ids=["exit", "argparse", "bare", "in the factory", "exit() in the factory", "an own BaseException", "in forward"],
)
def test_users_code_that_ends_the_program_is_an_error_that_names_it(folder, source):
    (folder / "leaving.py").write_text(source)
    with pytest.raises(PullbackError, match="leaving") as caught:
        load_generator("leaving:make", device="cpu")
    assert not isinstance(caught.value, SystemExit)


def test_a_ctrl_c_in_users_code_stays_one(folder):
    (folder / "stopped.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_generator("stopped:make", device="cpu")


def test_users_code_moves_the_working_directory_for_itself_alone(folder):
    (folder / "data").mkdir()
    (folder / "data" / "size.txt").write_text("3")
    moved = NETWORK.replace("make = Net", "def make():\n    open('size.txt').close()\n    return Net()")
    moved = "import os\nos.chdir('data')\n" + moved.replace("return torch", "os.chdir('/')\n        return torch")
    (folder / "moving.py").write_text(moved)
    for _ in range(2):  # the second time the module is imported already
        load_generator("moving:make", device="cpu")
        assert Path.cwd() == folder


def test_a_users_file_does_not_take_the_place_of_another_module(folder):
    for name in ("colorsys", "wave", "ray", "torch", "numpy"):
        (folder / f"{name}.py").write_text("raise RuntimeError('the wrong one')\n")
    (folder / "fine.py").write_text("import colorsys, wave\nfrom beside import value\n" + NETWORK)
    (folder / "beside.py").write_text("value = 1\n")
    load_generator("fine:make", device="cpu")
    assert not sys.modules["colorsys"].__file__.startswith(str(folder))


@pytest.mark.parametrize("name", ["profile", "statistics", "torch"])
def test_a_users_file_with_the_name_of_another_module_is_named(folder, name):
    (folder / f"{name}.py").write_text(NETWORK)
    with pytest.raises(SpecError) as caught:
        load_generator(f"{name}:make", device="cpu")
    assert str(folder / f"{name}.py") in str(caught.value)


def test_an_import_that_gets_another_module_than_the_file_beside_it_says_so(folder):
    (folder / "colorsys.py").write_text("def mine(): pass\n")
    (folder / "misled.py").write_text("from colorsys import mine\n" + NETWORK)
    with pytest.raises(SpecError) as caught:
        load_generator("misled:make", device="cpu")
    assert str(folder / "colorsys.py") in str(caught.value)


def test_users_files_import_the_files_beside_them_before_installed_packages(folder, tmp_path_factory, monkeypatch):
    installed = tmp_path_factory.mktemp("other") / "site-packages"
    installed.mkdir()
    (installed / "common_name.py").write_text("value = 'installed'\n")
    monkeypatch.syspath_prepend(installed)
    (folder / "common_name.py").write_text("value = 'theirs'\n")
    (folder / "asks.py").write_text("from common_name import value\n" + NETWORK + "Net.which = value\n")
    assert load_generator("asks:make", device="cpu").which == "theirs"


# Fingerprints


def entries(folder, source, name="made"):
    (folder / f"{name}.py").write_text(source)
    return origin_of(load_generator(f"{name}:make", device="cpu")).built


def test_attributes_that_forward_cannot_read_are_left_out(folder):
    made = "    def __init__(self):\n        super().__init__()\n        self.gain, self.unused = 2.0, 3.0\n"
    made += "        self.inner = type('Plain', (), {})()\n        self.inner.scale = 4.0\n"
    source = NETWORK.replace("    def forward", made + "    def forward").replace("(z.", "(self.scaled() * z.")
    source = source.replace(
        "make = Net", "    def scaled(self):\n        return self.gain * self.inner.scale\nmake = Net"
    )
    found = entries(folder, source)
    assert found["attribute gain"] == "2.0"
    assert "attribute inner" in found
    assert "attribute unused" not in found
    other = entries(folder, source.replace("scale = 4.0", "scale = 5.0"))
    assert other["attribute inner"] != found["attribute inner"]


@pytest.mark.parametrize(
    ("value", "another"),
    [
        ("0.7", "0.5"),
        ("(1, [2, {'a': 3}])", "(1, [2, {'a': 4}])"),
        ("torch.tensor([1.0])", "torch.tensor([2.0])"),
        ("np.arange(3)", "np.arange(3) + 1"),
        ("np.float32(1)", "np.float32(2)"),
        ("torch.float32", "torch.float64"),
        ("SimpleNamespace(a=1)", "SimpleNamespace(a=2)"),
        ("Config(1)", "Config(2)"),
        ("functools.partial(pow, 2)", "functools.partial(pow, 3)"),
        ("[lambda x: x + 1, lambda x: x - 1][0]", "[lambda x: x + 1, lambda x: x - 1][1]"),
        ("closed(1)", "closed(2)"),
        ("decimal.Decimal('1.5')", "decimal.Decimal('1.6')"),
        ("array.array('f', [1, 2])", "array.array('f', [1, 3])"),
        (
            "torch.jit.trace(lambda x: x * torch.tensor([1.0, 2.0]), torch.ones(2))",
            "torch.jit.trace(lambda x: x * torch.tensor([1.0, 3.0]), torch.ones(2))",
        ),
        ("[torch.nn.ReLU()]", "[torch.nn.Tanh()]"),
        ("[torch.nn.Hardtanh(0, 1)]", "[torch.nn.Hardtanh(0, 2)]"),
    ],
)
def test_an_attribute_of_any_plain_kind_counts(folder, value, another):
    head = (
        "import array\nimport decimal\nimport functools\n"
        "from dataclasses import dataclass\nfrom types import SimpleNamespace\nimport numpy as np\n"
        "import torch\n@dataclass\nclass Config:\n    a: int\ndef closed(a):\n    return lambda: a\n"
    )
    made = "    def __init__(self):\n        super().__init__()\n        self.held = VALUE\n"
    source = head + NETWORK.replace("    def forward", made + "    def forward").replace(
        "        return", "        self.held\n        return"
    )
    one = entries(folder, source.replace("VALUE", value))
    assert entries(folder, source.replace("VALUE", value)) == one
    assert entries(folder, source.replace("VALUE", another))["attribute held"] != one["attribute held"]


def test_code_that_is_executed_from_a_file_counts(folder):
    inner = NETWORK.replace("return torch", "return GAIN * torch").replace("make = Net", "GAIN = 1.0")
    (folder / "inner.txt").write_text(inner)
    source = "def make():\n    names = {}\n    exec(compile(open('inner.txt').read(), 'inner.txt', 'exec'), names)\n"
    one = entries(folder, source + "    return names['Net']()\n")
    (folder / "inner.txt").write_text(inner.replace("GAIN = 1.0", "GAIN = 0.5"))
    two = entries(folder, source + "    return names['Net']()\n")
    (folder / "inner.txt").write_text(inner.replace("sigmoid", "tanh"))
    three = entries(folder, source + "    return names['Net']()\n")
    assert one != two != three != one


OVERRIDDEN = """
import torch
from based import Based
class Other(Based):
    latent_dim = 3
    def forward(self, z):
        return torch.sigmoid(self.scaled(z)).repeat(1, 64).view(-1, 3, 8, 8)
def make():
    made = Other()
    forward, gain = made.forward, float(open("gain.txt").read())
    made.forward = lambda z: forward(gain * z)
    return made
"""


def test_a_forward_of_the_objects_own_and_attributes_of_base_classes_count(folder):
    (folder / "gain.txt").write_text("1.0")
    (folder / "scale.txt").write_text("2.0")
    (folder / "based.py").write_text(
        "import torch\nclass Based(torch.nn.Module):\n    SCALE = float(open('scale.txt').read())\n"
        "    def scaled(self, z):\n        return self.SCALE * z\n"
    )
    found = entries(folder, OVERRIDDEN)
    assert found["attribute Based.SCALE"] == "2.0"
    (folder / "gain.txt").write_text("1.5")
    assert entries(folder, OVERRIDDEN)["attribute forward"] != found["attribute forward"]


SCRIPTED = """
import torch
class Inner(torch.nn.Module):
    gain: float
    def __init__(self):
        super().__init__()
        self.gain = float(open("gain.txt").read())
        self.weight = torch.nn.Parameter(self.gain * torch.ones(3, 192))
    def forward(self, z):
        return self.gain * z @ self.weight.detach()
class Net(torch.nn.Module):
    latent_dim = 3
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, z):
        return torch.sigmoid(self.inner(z)).view(-1, 3, 8, 8)
def make():
    return Net(SCRIPTED)
"""


@pytest.mark.parametrize(
    "script",
    ["torch.jit.script(Inner())", "torch.jit.freeze(torch.jit.script(Inner().eval()))"],
    ids=["attributes", "constants"],
)
def test_what_a_scripted_network_holds_counts(folder, script):
    source = SCRIPTED.replace("SCRIPTED", script)
    (folder / "gain.txt").write_text("1.0")
    one = entries(folder, source)
    assert entries(folder, source) == one
    (folder / "gain.txt").write_text("2.0")
    assert entries(folder, source)["code of inner"] != one["code of inner"]


ALONE = """
import torch
from torch import nn
def make():
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8))))
    net.latent_dim = 4
    return net
def sized(n, *, side=8, channels): pass
"""


def test_a_scripted_generator_loads(tmp_path, monkeypatch):
    (tmp_path / "alone.py").write_text(ALONE)
    monkeypatch.chdir(tmp_path)
    generator = load_generator("alone:make")
    assert not any(weight.requires_grad for weight in generator.parameters())
    assert generator(torch.ones(1, 4)).shape == (1, 3, 8, 8)


def test_what_a_factory_needs_and_was_not_given_is_named(tmp_path, monkeypatch):
    (tmp_path / "alone.py").write_text(ALONE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"alone:sized\(n, \*, side=8, channels\) needs n, channels"):
        load_generator("alone:sized")
    with pytest.raises(SpecError, match=r"needs channels; give"):
        load_generator("alone:sized", args={"n": 4})


def test_a_file_that_replaces_a_module_of_pythons_own_is_named(tmp_path, monkeypatch):
    assert replacing() == ""
    (tmp_path / "profile.py").write_text("")
    monkeypatch.delitem(sys.modules, "profile", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "profile", importlib.import_module("profile"))
    assert str(tmp_path / "profile.py") in replacing()
