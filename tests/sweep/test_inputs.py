"""Which changes of users' files make another sweep: run in processes of their own, as a worker's or a later run's."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import attach, run_sweep
from pullback.errors import PullbackError, SpecError
from pullback.spec import JobSpec
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.sweep import identity
from pullback.sweep.inputs import changed_files
from pullback.sweep.plan import make_plan

MODEL = """
import json, os, random, threading, time
from pathlib import Path

import torch

from nets import layers

HERE = Path(__file__).parent
BUILT = 0


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        global BUILT
        BUILT += 1
        self.latent_dim = 3
        self.lin = torch.nn.Linear(3, 192)
        self.lin.load_state_dict(torch.load(HERE / "w.pt"))
        self.truncation = json.loads((HERE / "config.json").read_text())["truncation"]
        self.table = {"gain": 1.0, "names": {"b", "a", "c"}}
        self.folder = str(HERE)
        self.created, self.pid, self.serial = time.time(), os.getpid(), BUILT
        self.calls, self.cache = 0, {}
        self.lock, self.random, self.handle = threading.Lock(), random.Random(), open(__file__)
        self.act = lambda x: torch.sigmoid(x)

    def forward(self, z):
        self.calls += 1
        self.cache[self.calls] = time.time() - self.created
        x = self.lin(self.truncation * self.table["gain"] * z)
        return self.act(layers.scaled(x)).view(-1, 3, 8, 8)


def make():
    return Net()
"""
LAYERS = """
def scaled(x):
    from nets.inner import SCALE
    return SCALE * x
"""
PLAN = """
import json, sys
from pullback.spec import JobSpec
from pullback.sweep.plan import make_plan
plan = make_plan(JobSpec.model_validate_json(sys.argv[1]))
print(json.dumps([plan.sweep_id, plan.provenance["inputs"]]))
"""


def torch_file(path, seed):
    torch.manual_seed(seed)
    torch.save(torch.nn.Linear(3, 192).state_dict(), path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets").mkdir()
    files = {
        "mine.py": MODEL,
        "nets/__init__.py": "",
        "nets/layers.py": LAYERS,
        "nets/inner.py": "SCALE = 1.0\n",
        "config.json": '{"truncation": 0.7, "note": "a"}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    torch_file(tmp_path / "w.pt", 0)
    return tmp_path


def spec(**changes):
    content = {
        "name": "t",
        "generator": "mine:make",
        "distance": "mse",
        "samples": {"count": 4},
        "resources": {"shard_size": 2, "workers": 1, "device": "cpu"},
    }
    return json.dumps({**content, **changes})


def in_process(folder, code, *arguments, seed="0"):
    """What a fresh Python prints, in the folder."""
    variables = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=variables, capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else done.stderr


def planned(folder, seed="0", **changes):
    return json.loads(in_process(folder, PLAN, spec(**changes), seed=seed).splitlines()[-1])


def test_the_identity_is_the_same_in_every_process_whatever_changes_by_itself(folder, tmp_path):
    first = planned(folder, seed="1")
    assert planned(folder, seed="2") == first
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for each in ("mine.py", "nets", "w.pt", "config.json"):
        (folder / each).rename(moved / each)
    assert planned(moved, seed="3")[0] == first[0]


def test_the_record_names_the_sources_and_the_files_that_were_read(folder):
    inputs = planned(folder)[1]
    assert sorted(inputs["sources"]) == ["mine.py", "nets/__init__.py", "nets/inner.py", "nets/layers.py"]
    assert sorted(inputs["opened"]) == ["config.json", "w.pt"]
    assert {"generator: tensor lin.weight", "generator: attribute truncation"} <= set(inputs["built"])
    assert "generator: attribute pid" not in inputs["built"]


# In one process, which imports what has changed anew


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    forget_modules_of(folder)


def forget_modules_of(folder):
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def plan(**changes):
    return make_plan(JobSpec.model_validate_json(spec(**changes)))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES = {
    "a file of weights": (lambda f: torch_file(f / "w.pt", 1), ["w.pt", "tensor lin.weight"]),
    "a number in a file": (
        lambda f: edit(f / "config.json", "0.7", "0.5"),
        ["config.json", "truncation (0.7 there, 0.5 here)"],
    ),
    "a source in a package": (lambda f: (f / "nets/layers.py").write_text(LAYERS + "X = 1\n"), ["nets/layers.py"]),
    "a source that is imported late": (lambda f: (f / "nets/inner.py").write_text("SCALE = 2.0\n"), ["nets/inner.py"]),
    "the factory's own source": (lambda f: edit(f / "mine.py", "BUILT = 0", "BUILT = 9"), ["mine (source)"]),
    "a constant in a dictionary": (lambda f: edit(f / "mine.py", '"gain": 1.0', '"gain": 2.0'), ["mine (source)"]),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_another_sweep_and_is_named(here, change, named):
    first = plan()
    attach(first)
    change(here)
    with pytest.raises(SpecError) as caught:
        plan()
    message = str(caught.value)
    assert "holds another sweep" in message
    assert all(name in message for name in named), message
    assert plan(store="elsewhere").sweep_id != first.sweep_id


def test_what_changes_no_number_goes_on(here):
    first = plan()
    attach(first)
    edit(here / "config.json", '"a"', '"b"')  # a note that nothing reads
    torch.save(torch.load(here / "w.pt"), here / "w.pt")
    (here / "notes.txt").write_text("x")
    (here / "unrelated.py").write_text("x = 1")
    assert plan().sweep_id == first.sweep_id


def test_a_worker_that_loads_something_else_than_the_plan_computes_nothing_and_names_it(here):
    planned = plan()
    torch_file(here / "w.pt", 1)
    with pytest.raises(PullbackError, match=r"not what the sweep was planned with: w\.pt; .*tensor lin\.bias"):
        run_sweep(planned, serial_pool)
    assert open_sweep("sweeps/t").status().pending == 4
    torch_file(here / "w.pt", 0)
    assert run_sweep(planned, serial_pool).status.good == 4


LAZY = """
import json, torch
class Net(torch.nn.Module):
    latent_dim = 3
    def forward(self, z):
        scale = json.load(open("config.json"))["truncation"]
        return torch.sigmoid(scale * z.repeat(1, 64).view(-1, 3, 8, 8))
make = Net
def distance(images):
    return json.load(open("distance.json"))["scale"] * images.flatten(1)
"""


@pytest.mark.parametrize(("name", "file"), [("mse", "config.json"), ("lazy:distance", "distance.json")])
def test_a_file_that_is_read_in_every_pass_ends_the_sweep_when_it_changes(here, name, file):
    (here / "lazy.py").write_text(LAZY)
    (here / "distance.json").write_text('{"scale": 1.0, "truncation": 1.0}')
    planned = plan(generator="lazy:make", distance=name)
    assert file in planned.inputs.read

    def change_after_the_first(progress):
        if progress.done == 2:
            (here / file).write_text('{"scale": 3.0, "truncation": 0.1}')

    with pytest.raises(PullbackError, match=f"{file} changed on "):
        run_sweep(planned, serial_pool, change_after_the_first)
    assert open_sweep("sweeps/t").status().good == 2
    with pytest.raises(SpecError, match=rf"differs in {file}"):
        plan(generator="lazy:make", distance=name)


DISTANCE = """
import functools, torch
SCALE = torch.load("w.pt")["bias"][:1].abs()
def network():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))
    net[0].weight.data.fill_(float(open("gain.txt").read()))
    net[0].bias.data.fill_(0.0)
    return net
def make_distance(power):
    return lambda images: (SCALE * images).flatten(1) ** power
by_global = make_distance(float(open("gain.txt").read()))
"""


@pytest.mark.parametrize(
    "distance",
    [{"name": "features", "module": "dist:network", "layer": "0"}, {"name": "dist:by_global"}],
    ids=["a network", "a function"],
)
def test_a_distances_networks_globals_and_closures_count(here, distance):
    (here / "dist.py").write_text(DISTANCE)
    (here / "gain.txt").write_text("1.5")
    first = plan(distance=distance)
    attach(first)
    assert plan(distance=distance).sweep_id == first.sweep_id
    (here / "gain.txt").write_text("2.5")
    forget_modules_of(here)  # a module that read the file is unchanged itself, as for a later process
    with pytest.raises(SpecError, match=r"gain\.txt"):
        plan(distance=distance)


def test_a_mask_that_changes_is_named(here):
    np.save("mask.npy", np.full((8, 8), 0.5))
    distance = {"name": "mse", "mask": "mask.npy"}
    first = plan(distance=distance)
    attach(first)
    np.save("mask.npy", np.full((8, 8), 0.25))
    with pytest.raises(SpecError, match="differs in mask"):
        plan(distance=distance)
    with pytest.raises(PullbackError, match="planned with: mask"):
        run_sweep(first, serial_pool)


def test_a_factory_without_a_fixed_seed_is_refused(here):
    (here / "unseeded.py").write_text(LAZY.replace("latent_dim = 3", "latent_dim = 3\n    x = 1") + UNSEEDED)
    with pytest.raises(SpecError, match=r"twice gave two different networks .*tensor w.*fixed seed"):
        plan(generator="unseeded:fresh")


UNSEEDED = """
def fresh():
    net = Net()
    net.w = torch.nn.Parameter(torch.randn(3))
    return net
"""


def test_an_attribute_that_differs_each_time_and_changes_images_is_refused(here):
    (here / "dice.py").write_text(
        "import random, torch\n"
        "class Net(torch.nn.Module):\n"
        "    latent_dim = 3\n"
        "    def __init__(self):\n        super().__init__()\n        self.gain = random.random()\n"
        "    def forward(self, z):\n        return torch.sigmoid(self.gain * z.repeat(1, 64).view(-1, 3, 8, 8))\n"
        "make = Net\n"
    )
    with pytest.raises(SpecError, match=r"attribute gain .*fixed seed"):
        plan(generator="dice:make")


def test_generator_weights_are_passed_to_a_factory_and_hashed(here):
    text = MODEL.replace("__init__(self)", "__init__(self, path)").replace('HERE / "w.pt"', "path")
    (here / "given.py").write_text(text.replace("make():\n    return Net()", "make(path):\n    return Net(path)"))
    generator = {"name": "given:make", "weights": "w.pt"}
    first = plan(generator=generator)
    assert first.provenance["weights"]["generator.weights"] == hashlib.sha256((here / "w.pt").read_bytes()).hexdigest()
    (here / "w.pt").rename(here / "other.pt")
    assert plan(generator=generator | {"weights": "other.pt"}).sweep_id == first.sweep_id
    attach(first)
    torch_file(here / "other.pt", 1)
    with pytest.raises(SpecError, match=r"differs in generator\.weights"):
        plan(generator=generator | {"weights": "other.pt"})
    with pytest.raises(SpecError, match=r"generator\.weights: mine:make loads its own weights"):
        plan(generator={"name": "mine:make", "weights": "other.pt"})
    with pytest.raises(SpecError, match=r"generator: there is no weight file"):
        plan(generator=generator | {"weights": "none.pt"})


def test_a_sweep_of_an_earlier_version_goes_on_and_names_what_cannot_be_compared(here, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(identity, "warn_once", warnings.append)
    now = plan()
    recorded = {name: value for name, value in now.provenance.items() if name != "inputs"}
    recorded["weights"] = {"mine (source)": hashlib.sha256((here / "mine.py").read_bytes()).hexdigest()}
    recorded["identity"] = {**now.provenance["identity"], "weights": recorded["weights"]}
    recorded["sweep_id"] = "0123456789abcdef"
    create("sweeps/t", now.layout, recorded)
    again = plan()
    assert again.sweep_id == "0123456789abcdef"
    (warning,) = warnings
    for name in ("config.json", "nets/inner.py", "nets/layers.py", "w.pt"):
        assert name in warning
    assert "mine.py" not in warning, "its hash was recorded"
    assert run_sweep(again, serial_pool).status.good == 4
    warnings.clear()
    plan()
    assert warnings == [], "a finished sweep mixes nothing"
    edit(here / "mine.py", "BUILT = 0", "BUILT = 7")
    with pytest.raises(SpecError, match=r"differs in mine \(source\)"):
        plan()


def test_a_finished_sweep_knows_without_running_code_that_its_files_have_changed(here):
    planned = plan()
    assert changed_files(planned.job, planned.inputs, here) == []
    (here / "nets/inner.py").write_text("SCALE = 2.0\n")
    torch_file(here / "w.pt", 1)
    assert changed_files(planned.job, planned.inputs, here) == ["nets/inner.py", "w.pt"]


def test_a_file_that_was_written_in_the_same_second_to_the_same_size_is_read_anew(here):
    factory = "GAIN = 1.0\ndef fast():\n    net = Net()\n    net.truncation = GAIN\n    return net\n"
    (here / "quick.py").write_text(LAZY + factory)
    first = plan(generator="quick:fast")
    edit(here / "quick.py", "GAIN = 1.0", "GAIN = 2.0")
    second = plan(generator="quick:fast", store="elsewhere")
    assert second.sweep_id != first.sweep_id
    assert second.inputs.built["generator: attribute truncation"] == "2.0"


BY_ENVIRONMENT = """
import os, torch
class Net(torch.nn.Module):
    latent_dim = 3
    def forward(self, z):
        return torch.sigmoid(float(os.environ.get("GAIN", "1")) * z.repeat(1, 64)).view(-1, 3, 8, 8)
make = Net
"""


def test_images_that_differ_though_no_file_does_are_another_sweep(here, monkeypatch):
    (here / "surroundings.py").write_text(BY_ENVIRONMENT)
    planned = plan(generator="surroundings:make")
    attach(planned)
    plan(generator="surroundings:make")
    monkeypatch.setenv("GAIN", "0.9")
    with pytest.raises(SpecError, match="differs in the images"):
        plan(generator="surroundings:make")
    with pytest.raises(PullbackError, match="not what the sweep was planned with: the images"):
        run_sweep(planned, serial_pool)
    monkeypatch.delenv("GAIN")
    assert run_sweep(planned, serial_pool).status.good == 4
