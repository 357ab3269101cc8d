"""Weight files are read into tensors; what is damaged or carries code is refused, and the code is not run."""

import os
import pickle
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pullback.errors import WeightsError
from pullback.weights.checkpoints import read_checkpoint, read_numpy_pickle

STATE = {
    "main.0.weight": torch.arange(6.0).reshape(2, 3),
    "main.0.bias": torch.tensor([1.5, -2.0]),
    "main.1.num_batches_tracked": torch.tensor(7),
}


class Mark:
    """Unpickling one with pickle's own unpickler writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save(path, kind, content=STATE):
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = {"zip": "a.pth", "legacy": "a.tar", "safetensors": "a.safetensors"}


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_each_format_is_read(tmp_path, kind, name):
    content = read_checkpoint(save(tmp_path / name, kind))
    assert set(content) == set(STATE)
    for key, tensor in STATE.items():
        assert torch.equal(content[key], tensor)


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_a_truncated_file_is_refused(tmp_path, kind, name):
    path = save(tmp_path / name, kind)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            read_checkpoint(path)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_missing_file_is_reported(tmp_path, name):
    with pytest.raises(WeightsError, match=name):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_folder_is_refused(tmp_path, suffix):
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    with pytest.raises(WeightsError, match=re.escape(folder.name)):
        read_checkpoint(folder)


def test_an_archive_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, kind):
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    content = {**STATE, "extra": Mark(mark)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        save(path, kind, content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert not mark.exists()
    assert "code in a checkpoint is never run" in str(caught.value)
    assert "state dict alone" in str(caught.value)


def test_the_code_of_these_tests_would_run_without_the_protection(tmp_path):
    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    save(path, "zip", {"extra": Mark(mark)})
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_numpy_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "a.ckpt", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"a": np.zeros(2), "b": Mark(mark)}))
    with pytest.raises(WeightsError, match=r"(posix|nt)\.mkdir is not allowed in a numpy pickle"):
        read_numpy_pickle(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("name", ["load", "fromfile", "memmap", "ndarray.tofile", "_core"])
def test_a_numpy_pickle_may_not_name_other_parts_of_numpy(tmp_path, name):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"\x80\x04cnumpy\n" + name.encode() + b"\n.")
    with pytest.raises(WeightsError, match=f"numpy.{re.escape(name)} is not allowed"):
        read_numpy_pickle(path)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_numpy_pickle_is_read(tmp_path, protocol):
    path = tmp_path / "a.ckpt"
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(pickle.dumps({"net": {"Conv_0": {"kernel": kernel, "bias": np.float64([1, 2])}}}, protocol))
    read = read_numpy_pickle(path)["net"]["Conv_0"]
    assert read["kernel"].dtype == np.float32
    assert np.array_equal(read["kernel"], kernel)
    assert np.array_equal(read["bias"], [1, 2])


def test_a_numpy_pickle_of_before_numpy_2_is_read(tmp_path):
    path = tmp_path / "a.ckpt"
    new = pickle.dumps({"a": np.arange(3.0)}, protocol=3)
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    path.write_bytes(old)
    assert np.array_equal(read_numpy_pickle(path)["a"], [0, 1, 2])


def test_a_numpy_pickle_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(WeightsError, match="list"):
        read_numpy_pickle(path)


def test_a_missing_numpy_pickle_is_reported(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.ckpt"):
        read_numpy_pickle(tmp_path / "none.ckpt")


WHOLE = pickle.dumps({"net": {"Conv_0": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(2)}}}, protocol=4)


def read_bytes(reader, content, suffix):
    """The content read, or None where it is refused; any other error is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            return reader(path)
        except WeightsError:
            return None


def test_the_numpy_pickle_that_is_truncated_below_is_readable():
    assert read_bytes(read_numpy_pickle, WHOLE, ".ckpt") is not None


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_truncated_numpy_pickle_is_refused(length):
    assert read_bytes(read_numpy_pickle, WHOLE[:length], ".ckpt") is None


# Fixed examples: pickle may reserve gigabytes for a few random bytes before it refuses them.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=60), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00", b"\x08" + bytes(7)])
)
def test_any_bytes_are_refused_as_weights(content, start):
    for reader, suffix in ((read_checkpoint, ".pth"), (read_checkpoint, ".safetensors"), (read_numpy_pickle, ".ckpt")):
        found = read_bytes(reader, start + content, suffix)
        assert not found or not isinstance(found, dict) or "main.0.weight" not in found
