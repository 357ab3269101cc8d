"""Pickles of whole networks, and torch's older formats, are read as data; nothing that they name is run."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import types
import zipfile

import numpy as np
import pytest
import torch

import nvidia_pickles
from pullback.errors import WeightsError
from pullback.weights import content
from pullback.weights.networks import networks_in

STATE = {
    "mapping.fc0.weight": torch.randn(4, 3),
    "mapping.w_avg": torch.randn(4),
    "synthesis.b4.const": torch.randn(2, 4, 4),
    "synthesis.b4.conv1.noise_strength": torch.tensor(0.3),
    "synthesis.b4.conv1.weight": torch.randn(2, 2, 3, 3)[:, :, ::2],
}
ATTRIBUTES = {
    "": {"z_dim": 3, "w_dim": 4},
    "synthesis.b4.conv1": {
        "_class_name": "SynthesisLayer",
        "act_gain": np.float64(2**0.5),
        "use_noise": np.bool_(True),
        "padding": np.array([1, 2, 3], dtype=np.int64),
        "resolution": 4,
    },
}
KWARGS = {"z_dim": 3, "c_dim": 0, "mapping_kwargs": {"num_layers": 2}, "use_fp16": np.bool_(False)}


def spec(**changes):
    return nvidia_pickles.network(
        **{"state": STATE, "init_kwargs": KWARGS, "buffers": ["mapping.w_avg"], "attributes": ATTRIBUTES, **changes}
    )


def at(found, key):
    return found.at(next(network for network in networks_in(found.root) if network.key == key))


@pytest.mark.parametrize(("protocol", "old_numpy"), [(4, False), (5, False), (3, True), (2, False)])
def test_nvidias_pickles_give_tensors_arguments_and_attributes(tmp_path, protocol, old_numpy):
    path = tmp_path / "network.pkl"
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    contents = {"G": spec(state=other), "D": None, "G_ema": spec(), "training_set_kwargs": {"resolution": 4}}
    nvidia_pickles.write(path, contents, protocol, old_numpy)
    assert b"raise RuntimeError" in path.read_bytes()
    found = content.read(path)
    assert {network.key: network.is_average for network in networks_in(found.root)} == {"G": False, "G_ema": True}
    average = at(found, "G_ema")
    assert average.state.keys() == STATE.keys()
    assert all(torch.equal(average.state[name], STATE[name]) for name in STATE)
    assert average.arguments == {"z_dim": 3, "c_dim": 0, "mapping_kwargs": {"num_layers": 2}, "use_fp16": False}
    assert average.modules[""].attributes == {"z_dim": 3, "w_dim": 4}
    layer = average.modules["synthesis.b4.conv1"]
    assert layer.attributes["act_gain"] == 2**0.5
    assert type(layer.attributes["act_gain"]) is float
    assert layer.attributes["padding"].tolist() == [1, 2, 3]
    assert found.root["training_set_kwargs"] == {"resolution": 4}


def legacy(value, cuda=False):
    """The bytes of torch's older format, as if its storages had been on a GPU."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    return data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0") if cuda else data


class _Config:
    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.fixture
def config_class(monkeypatch):
    """The config class of pytorch_GAN_zoo, by its module's name."""
    module = types.ModuleType("models.utils.config")
    module.BaseConfig = type("BaseConfig", (_Config,), {"__module__": "models.utils.config"})
    for name in ("models", "models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "models.utils.config", module)
    return module.BaseConfig


@pytest.mark.parametrize("form", ["zip", "older", "older, from a GPU"])
def test_a_config_object_beside_the_tensors_becomes_a_mapping(tmp_path, config_class, form):
    path = tmp_path / "zoo.pth"
    value = {"config": config_class(depth=3, sizes=[4, 8]), "avgG": {"a": torch.randn(3, 2).t(), "b": torch.arange(4)}}
    if form == "zip":
        torch.save(value, path)
    else:
        path.write_bytes(legacy(value, cuda="GPU" in form))
    sys.modules.pop("models.utils.config")
    found = content.read(path)
    assert found.root["config"] == {"depth": 3, "sizes": [4, 8]}
    assert torch.equal(found.root["avgG"]["a"], value["avgG"]["a"])
    assert torch.equal(found.root["avgG"]["b"], value["avgG"]["b"])


def test_tensors_that_share_a_storage_and_half_precision_survive_the_older_format(tmp_path, config_class):
    base = torch.randn(10)
    value = {"config": config_class(), "x": base[2:6], "y": base.view(5, 2)[:, 1], "h": torch.randn(3).half()}
    value["n"], value["e"] = torch.tensor(7), torch.empty(0, 3)
    (tmp_path / "shared.pth").write_bytes(legacy(value))
    found = content.read(tmp_path / "shared.pth").root
    assert all(torch.equal(found[name], value[name]) for name in "xyhne")
    assert found["h"].dtype == torch.float16


def test_argparse_options_become_a_mapping(tmp_path):
    torch.save({"args": argparse.Namespace(size=8, path="x"), "g": {"a": torch.ones(2)}}, tmp_path / "training.pt")
    assert content.read(tmp_path / "training.pt").root["args"] == {"size": 8, "path": "x"}


def tar_file(path, array):
    """torch's first format, of one tensor [2, 3] in a dict."""
    storages = pickle.dumps(1, 2) + pickle.dumps((11, "cpu", torch.FloatStorage), 2)
    storages += struct.pack("<q", array.size) + array.tobytes() + pickle.dumps([], 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((22, 11, torch.FloatTensor), 2)
    tensors += struct.pack("<i4x2q2qq", 2, 2, 3, 3, 1, 0)

    class Reference(pickle.Pickler):
        def persistent_id(self, item):
            return "22" if isinstance(item, np.ndarray) else None

    stream = io.BytesIO()
    Reference(stream, 2).dump(collections.OrderedDict(weight=array))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("storages", storages), ("tensors", tensors), ("pickle", stream.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_the_first_format_of_torch_is_read(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tar_file(tmp_path / "old.pth", array)
    expected = torch.load(tmp_path / "old.pth", weights_only=False)["weight"]
    found = content.read(tmp_path / "old.pth").root["weight"]
    assert torch.equal(found, torch.from_numpy(array))
    assert torch.equal(found, expected)


class Writes:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Builds:
    """Unpickling it calls a constructor with effects."""

    def __reduce__(self):
        return subprocess.Popen, (["true"],)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(100 * 2**20))


def hostile(kind, path, marker):
    harm = Writes(marker)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"G_ema": harm}, 4))
    elif kind == "torch zip":
        torch.save({"g": {"a": torch.ones(2)}, "config": harm}, path)
    elif kind == "torch older":
        path.write_bytes(legacy({"g": {"a": torch.ones(2)}, "config": harm}))
    elif kind == "nested stream":
        stream = io.BytesIO()
        torch.save(harm, stream, _use_new_zipfile_serialization=False)
        path.write_bytes(b"\x80\x04" + pickle.dumps(Nested(stream.getvalue()), 4)[2:])
    elif kind == "in a network":
        nvidia_pickles.write(path, {"G_ema": nvidia_pickles.network(STATE, {}, attributes={"": {"x": harm}})})
    elif kind == "other class":
        path.write_bytes(pickle.dumps({"a": Builds()}, 4))
    elif kind == "named like data":
        path.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(marker).encode())
    elif kind == "zip bomb":
        bomb(path)
    elif kind == "header of 2^63 bytes":
        path.write_bytes(struct.pack("<Q", 2**63) + b"{" + b" " * 100)
    elif kind == "huge array":
        dtype = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
        path.write_bytes(
            b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
            b"(I1\n(I1099511627776\nt" + dtype + b"I00\nS'xx'\ntb."
        )
    elif kind == "huge bytearray":
        path.write_bytes(b"\x80\x03cbuiltins\nbytearray\n(I1099511627776\ntR.")
    elif kind == "huge bytearray of its own opcode":
        path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**42) + b"x.")
    elif kind == "huge memo":
        path.write_bytes(b"\x80\x04]r\xff\xff\xff\x7f.")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()


class Nested:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.data,)


KINDS = [
    "pickle", "torch zip", "torch older", "nested stream", "in a network", "other class", "named like data",
    "zip bomb", "header of 2^63 bytes", "huge array", "huge bytearray", "huge bytearray of its own opcode",
    "fifo", "folder",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, kind, suffix):
    path, marker = tmp_path / f"hostile{suffix}", tmp_path / "marker"
    hostile(kind, path, marker)
    began = time.process_time()
    with pytest.raises(WeightsError) as caught:
        content.read(path)
    assert time.process_time() - began < 10
    assert str(path.name) in str(caught.value)
    assert not marker.exists()


def test_a_device_without_an_end_is_refused():
    with pytest.raises(WeightsError):
        content.read(content.Path("/dev/zero"))


def test_the_references_of_a_pickle_multiply_nothing(tmp_path):
    # 40 levels of lists that hold the level below twice: 2^40 entries for who copies them
    data = b"\x80\x04]\x94" + b"".join(b"]\x94(h%ch%ce" % (i, i) for i in range(40))
    (tmp_path / "deep.pkl").write_bytes(data + b".")
    began = time.process_time()
    with contextlib.suppress(WeightsError):
        networks_in(content.read(tmp_path / "deep.pkl").root)
    assert time.process_time() - began < 10
