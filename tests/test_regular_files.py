"""Only regular files of a bounded size are read, whatever a path names."""

import os
import socket

import pytest

from pullback.distances.mask import Mask
from pullback.errors import SpecError, WeightsError
from pullback.regular_files import NotRegularError, TooLongError, open_regular, read_end, read_regular
from pullback.spec import load_job
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.manifest import sha256_of


def odd_path(kind, folder):
    """A path of something that is no regular file."""
    path = folder / "odd"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "circle of links":
        path.symlink_to(path)
    elif kind == "link to nothing":
        path.symlink_to(folder / "none")
    else:
        return folder / ("n" * 255 if kind == "long name" else "zero\0byte")
    return path


ODD = [
    "named pipe", "socket", "folder", "endless device", "circle of links", "link to nothing", "long name", "zero byte",
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ODD)
def test_nothing_but_a_regular_file_is_opened(kind, tmp_path):
    path = odd_path(kind, tmp_path)
    for read in (open_regular, lambda path: read_regular(path, 10), lambda path: read_end(path, 10)):
        with pytest.raises(OSError, match=r".") as caught:
            read(path)
        assert caught.value.strerror


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ODD)
def test_jobs_masks_and_weights_are_regular_files(kind, tmp_path):
    path = odd_path(kind, tmp_path)
    with pytest.raises(SpecError):
        load_job(path)
    with pytest.raises(SpecError):
        Mask.of_file(path)
    for read in (read_checkpoint, sha256_of):
        with pytest.raises(WeightsError):
            read(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == b"0123456789"
    assert read_end(path, 3) == b"789"
    assert read_end(path, 30) == b"0123456789"
    with pytest.raises(TooLongError) as caught:
        read_regular(path, 9)
    assert caught.value.size == 10


def test_a_file_that_says_it_is_empty_is_read_up_to_the_limit():
    with pytest.raises(TooLongError):
        read_regular("/proc/self/status", 10)


def test_a_link_is_followed_only_where_it_may_be(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 1) == b"x"
    with pytest.raises(NotRegularError):
        read_regular(tmp_path / "link", 1, follow_links=False)


@pytest.mark.parametrize("bytes_more", [2**31, 2**40])
def test_a_sparse_file_of_many_gigabytes_is_refused_unread(bytes_more, tmp_path):
    path = tmp_path / "job.yaml"
    with path.open("wb") as file:
        file.truncate(bytes_more)
    with pytest.raises(SpecError):
        load_job(path)
    with pytest.raises(SpecError):
        Mask.of_file(path)
