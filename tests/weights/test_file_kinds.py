"""A file that cannot be read is called what it seems to be, with advice that works; none of its code is run."""

import argparse
import gzip
import io
import json
import pathlib
import pickle
import pickletools
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dcgan_files import FACES_WIDTHS, network, state_dict_of
from pullback.errors import PullbackError, WeightsError
from pullback.generators import load_generator
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.file_kinds import kind_of

STATE = state_dict_of(network(FACES_WIDTHS))


class Stranger(nn.Module):
    """A class that a pickle may name."""

    def __init__(self):
        super().__init__()
        self.main = network(FACES_WIDTHS)


def named(module, name="Thing"):
    """An object whose class a pickle calls `module.name`."""
    made = type(name, (), {})
    made.__module__ = module
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    setattr(sys.modules[module], name, made)
    return made()


def pickled(content, protocol):
    return pickle.dumps(content, protocol)


def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def saved(content, **options):
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def scripted():
    out = io.BytesIO()
    torch.jit.save(torch.jit.trace(network((4, 5, 3)).eval(), torch.zeros(1, 4, 1, 1)), out)
    return out.getvalue()


def array(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return out.getvalue()


@pytest.fixture
def strange_modules():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("dnnlib", "torch_utils", "jaxlib_like", "models", "omegaconf_like"):
            del sys.modules[name]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KINDS = {
    "empty": (lambda: b"", "empty", "again"),
    "a pointer of git-lfs": (lambda: LFS, "git-lfs", "git lfs pull"),
    "a web page": (lambda: b"\n<!DOCTYPE html><html>not found</html>", "web page", "raw"),
    "an error of a bucket": (lambda: b"<?xml version='1.0'?><Error/>", "web page", "Download"),
    "TorchScript": (scripted, "TorchScript", r"torch\.jit\.load"),
    "a whole module": (lambda: saved(Stranger()), "whole pickled module .*Stranger", "state dict alone"),
    "a whole module, older": (
        lambda: saved(Stranger(), _use_new_zipfile_serialization=False),
        "whole pickled module .*Stranger",
        "state dict alone",
    ),
    "StyleGAN, protocol 2": (lambda: pickled({"G": named("dnnlib.tflib.network")}, 2), "NVIDIA", "legacy"),
    "StyleGAN, protocol 4": (lambda: pickled({"G": named("torch_utils.persistence")}, 4), "NVIDIA", "G_ema"),
    "other classes": (
        lambda: saved({"cfg": named("omegaconf_like.dictconfig"), "g": STATE}),
        r"more than tensors .*omegaconf_like",
        "state dict alone",
    ),
    "numpy's arrays": (lambda: array(a=np.zeros(2)), "numpy arrays", "mine:function"),
    "a zip with weights": (lambda: zipped(**{"a/b.pth": b"x", "readme": b""}), "zip archive", r"a/b\.pth"),
    "a zip without": (lambda: zipped(readme=b""), "zip archive", "npack"),
    "a zip cut off": (lambda: saved(STATE)[:4000], "damaged", "again"),
    "gzip": (lambda: gzip.compress(b"x" * 99), "gzip", "npack"),
    "tar": (tarred, "tar archive", "npack"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5", "mine:function"),
    "an image": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), "image", "weight file"),
    "an index of shards": (
        lambda: json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode(),
        r"2 files \(1\.safetensors",
        "your own code",
    ),
    "text": (lambda: b"learning_rate: 0.1\n", "text file", "weight file"),
}


@pytest.mark.usefixtures("strange_modules")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("content", "what", "advice"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pkl"])
def test_a_file_is_called_what_it_seems_to_be(tmp_path, content, what, advice, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content())
    with pytest.raises(WeightsError, match=rf"(?s)weights\.{suffix} .*{what}.*{advice}") as caught:
        load_generator(str(path), device="cpu")
    assert len(str(caught.value).splitlines()) <= 2
    assert len(str(caught.value)) < 700


def folder(path, *names, **files):
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"x")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_a_folder_is_called_what_it_seems_to_be(tmp_path):
    cases = {
        "diffusers pipeline": folder(tmp_path / "a", model_index={"_class_name": "StableDiffusionPipeline"}),
        "AutoencoderKL of diffusers": folder(
            tmp_path / "b",
            "diffusion.safetensors",
            config={"_class_name": "AutoencoderKL", "_diffusers_version": "0.3"},
        ),
        r"weight files: model\.safetensors": folder(tmp_path / "c", "model.safetensors", "optimizer.bin"),
        "TensorFlow": folder(tmp_path / "d", "saved_model.pb"),
        "without weight files": folder(tmp_path / "e"),
    }
    for message, path in cases.items():
        with pytest.raises(PullbackError, match=message):
            load_generator(str(path), device="cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_advice_for_torchscript_works(tmp_path):
    script, state = tmp_path / "script.pt", tmp_path / "state.pth"
    script.write_bytes(scripted())
    torch.save(torch.jit.load(script).state_dict(), state)
    assert load_generator(str(state), device="cpu").latent_dim == 4


def test_the_advice_for_a_whole_module_works(tmp_path):
    whole, state = tmp_path / "whole.pt", tmp_path / "state.pth"
    torch.save(Stranger(), whole)
    torch.save(torch.load(whole, weights_only=False).state_dict(), state)
    assert load_generator(str(state), device="cpu").latent_dim == FACES_WIDTHS[0]


OPTIONS = {
    "args": argparse.Namespace(lr=0.1, size=64),
    "loss": np.float64(0.3),
    "losses": np.arange(3.0),
    "path": pathlib.PosixPath("a/b"),
    "shape": torch.Size([2, 3]),
}


@pytest.mark.parametrize("new", [True, False])
def test_the_options_of_a_training_run_beside_the_tensors_are_no_obstacle(tmp_path, new):
    path = tmp_path / "run.pt"
    torch.save({"g": STATE, **OPTIONS}, path, _use_new_zipfile_serialization=new)
    content = read_checkpoint(path)
    assert content["args"] == OPTIONS["args"]
    assert np.array_equal(content["losses"], OPTIONS["losses"])
    assert load_generator(str(path), device="cpu").latent_dim == FACES_WIDTHS[0]


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin"])
def test_safetensors_are_read_whatever_their_suffix(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert load_generator(str(tmp_path / name), device="cpu").latent_dim == FACES_WIDTHS[0]


def test_a_torch_file_that_is_called_safetensors_is_read(tmp_path):
    torch.save(STATE, tmp_path / "a.safetensors")
    assert load_generator(str(tmp_path / "a.safetensors"), device="cpu").latent_dim == FACES_WIDTHS[0]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_any_pickle_is_looked_at_without_being_run(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    content = pickle.dumps([{"a": [1, "x", "x"]}, named("models.gan"), named("models.gan", "Other")], protocol)
    for length in range(0, len(content), 5):
        path.write_bytes(content[:length])
        kind_of(path)
    path.write_bytes(pickletools.optimize(content))
    assert "models.gan.Thing" in kind_of(path)[0]
    assert "models.gan.Other" in kind_of(path)[0]
