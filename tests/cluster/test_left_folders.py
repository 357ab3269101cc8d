"""Ray's temporary folders: those of the living stay, whoever looks; those of the dead go."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pullback.cluster import pool
from pullback.store.folder_locks import held

_CLEAN = """
import sys
from pathlib import Path
from pullback.cluster import pool
pool._short_temporary_folder = lambda: Path(sys.argv[1])
pool._remove_left_folders()
"""


@pytest.fixture
def folder(tmp_path):
    """A folder as a driver makes it, of a process number that nobody has."""
    path = tmp_path / "pullback-ray-4000000-abc"
    path.mkdir()
    (path / "session").touch()
    return path


def clean(folder, monkeypatch):
    monkeypatch.setattr(pool, "_short_temporary_folder", lambda: folder)
    pool._remove_left_folders()


def test_the_folder_of_a_living_driver_stays_whatever_its_number(folder, monkeypatch):
    with held(folder):
        clean(folder.parent, monkeypatch)
        assert (folder / "session").exists()
    clean(folder.parent, monkeypatch)
    assert not folder.exists()


def test_the_folder_of_a_driver_in_another_container_stays(tmp_path):
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        command = []
    folder = tmp_path / f"pullback-ray-{os.getpid()}-abc"
    folder.mkdir()
    (folder / "session").touch()
    with held(folder):
        subprocess.run([*command, sys.executable, "-c", _CLEAN, str(tmp_path)], check=True)
        assert (folder / "session").exists()


def test_a_link_and_a_file_of_such_a_name_stay(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "pullback-ray-4000000-link").symlink_to(other)
    (tmp_path / "pullback-ray-4000000-file").touch()
    clean(tmp_path, monkeypatch)
    assert len([*tmp_path.iterdir()]) == 3


def test_shared_memory_goes_elsewhere_where_it_cannot_be_written(tmp_path, monkeypatch):
    assert pool._plasma_folder(tmp_path) is None or not os.access("/dev/shm", os.W_OK)
    monkeypatch.setattr(pool.os, "access", lambda path, mode: Path(path) != Path("/dev/shm"))
    assert pool._plasma_folder(tmp_path) == (str(tmp_path) if sys.platform == "linux" else None)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to start:\nthe store died\n"), Exception("The current node timed out during startup.")],
)
def test_a_ray_that_cannot_be_started_is_one_sentence(monkeypatch, error):
    def refuse(**options):
        raise error

    monkeypatch.setattr(pool.ray, "init", refuse)
    with pytest.raises(pool.SweepError, match=r"the store died|timed out") as caught, pool.local_ray(1):
        pass
    assert len(str(caught.value).splitlines()) == 1
    assert "--serial" in str(caught.value)
