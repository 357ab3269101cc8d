"""Weight files and masks that declare more than they hold are refused before that is allocated."""

import io
import pickle
import resource
import struct
import zipfile
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from pullback.distances.mask import Mask
from pullback.errors import SpecError, WeightsError
from pullback.generators.checkpoint import load_checkpoint
from pullback.weights.checkpoints import read_checkpoint, read_numpy_pickle
from pullback.weights.networks import networks_in

_MOST_MIB = 200


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """A checkpoint of torch with some members of its archive changed."""
    torch.save({"main.0.weight": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as before:
        members = {each.filename: before.read(each) for each in before.infolist()}
    with zipfile.ZipFile(path, "w", compression) as after:
        for name, content in members.items():
            after.writestr(name, change.get(name.partition("/")[2], content))


def packed_member(path):
    rewritten(path, {"data/0": bytes(400 * 2**20)}, zipfile.ZIP_DEFLATED)


def packed_pickle(path):
    rewritten(path, {"data.pkl": b"\x80\x02" + b"N0" * (150 * 2**20)}, zipfile.ZIP_DEFLATED)


def shared_bytes(path):
    """An archive whose members all are the same megabyte."""
    rewritten(path, {"data/0": bytes(2**20)})
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", content, end + 12)
    directory, many = bytes(content[start:end]), 300
    tail = bytearray(content[end:])
    entries = struct.unpack_from("<H", tail, 8)[0] * many
    struct.pack_into("<HHI", tail, 8, entries, entries, size * many)
    path.write_bytes(bytes(content[:start]) + directory * many + bytes(tail))


def repeated_number(path):
    torch.save({"main.0.weight": torch.zeros(1).expand(100_000, 100_000)}, path)


def many_views(path):
    whole = torch.zeros(2**20)
    torch.save({f"main.{index}.weight": whole for index in range(200)}, path)


def references(path):
    inner = {"weight": torch.zeros(2, 2)}
    for _ in range(9):
        inner = {str(index): inner for index in range(10)}
    torch.save(inner, path)


def long_header(path):
    path.write_bytes(struct.pack("<Q", 2**63) + b"{" + bytes(100))


def much_data(path):
    header = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))


HOSTILE = {
    function.__name__: function
    for function in (packed_member, packed_pickle, shared_bytes, repeated_number, many_views, references)
} | {"long_header.safetensors": long_header, "much_data.safetensors": much_data}


def _refused(read, path, answers):
    """In a process of its own: what is raised, and how much memory was taken beyond what there was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(path)
        raised = ""
    except (WeightsError, SpecError) as error:
        raised = type(error).__name__
    except BaseException as error:
        raised = repr(error)
    answers.put((raised, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))


def outcome(read, path):
    context = get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_refused, args=(read, path, answers))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answers.get()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_checkpoint_that_declares_too_much_is_refused_unallocated(name, tmp_path):
    path = tmp_path / (name if "." in name else f"{name}.pth")
    HOSTILE[name](path)
    raised, mebibytes = outcome(load_checkpoint, path)
    assert raised == "WeightsError"
    assert mebibytes < _MOST_MIB


def test_a_pickle_that_names_a_far_place_in_its_memo_takes_no_memory(tmp_path):
    path = tmp_path / "numpy.pkl"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x3f.")
    raised, mebibytes = outcome(lambda path: read_numpy_pickle(path), path)
    assert raised == ""
    assert mebibytes < _MOST_MIB


def test_an_array_of_numpy_that_declares_too_much_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (40_000, 50_000)})
    path = tmp_path / "mask.npy"
    path.write_bytes(buffer.getvalue() + bytes(64))
    raised, mebibytes = outcome(Mask.of_file, path)
    assert raised == "ArgumentError"
    assert mebibytes < _MOST_MIB


def test_a_checkpoint_larger_than_the_free_memory_is_refused_unread(tmp_path):
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.write(b"PK")
        file.truncate(2**43)
    with pytest.raises(WeightsError, match="GiB"):
        read_checkpoint(path)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)])
def test_deep_nesting_is_no_network(wrap, tmp_path):
    content = {"weight": torch.zeros(2, 2)}
    for _ in range(900):
        content = wrap(content)
    assert networks_in(content) == []


def test_what_holds_itself_is_read_once_a_level():
    content = {"weight": torch.zeros(2, 2)}
    content["again"] = content
    assert len(networks_in(content)) < 20


def test_names_with_ten_thousand_dots_are_names():
    networks_in({"g." * 10_000 + "weight": torch.zeros(2, 2), "d.weight": torch.zeros(2, 2)})


def test_weights_that_share_their_storage_are_read(tmp_path):
    tied = torch.randn(300, 300)
    state = {"a.weight": tied, "b.weight": tied, "c.weight": tied.T}
    torch.save(state, tmp_path / "tied.pth")
    assert set(read_checkpoint(tmp_path / "tied.pth")) == set(state)


def test_a_compressed_archive_of_ordinary_weights_is_read(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as before,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as after,
    ):
        for each in before.infolist():
            after.writestr(each.filename, before.read(each))
    assert torch.equal(read_checkpoint(tmp_path / "b.pth")["a"], read_checkpoint(tmp_path / "a.pth")["a"])


ODD = {"marks": b"\x80\x02" + b"(" * 100_000, "lists": b"\x80\x04" + b"]\x94" * 100_000, "a list": pickle.dumps([])}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", ODD.values(), ids=ODD.keys())
def test_odd_pickles_are_refused(content, tmp_path):
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        load_checkpoint(path)
    with pytest.raises(WeightsError):
        read_numpy_pickle(path)
