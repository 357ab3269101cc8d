"""Folders in use are known by a lock: process numbers mean nothing in another container."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pullback.store.folder_locks import abandoned, held
from pullback.store.folders import whole_folder

_HOLD = """
import sys
from pathlib import Path
from pullback.store.folder_locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
_BUILD = """
import sys
from pathlib import Path
from pullback.store.folders import whole_folder
with whole_folder(Path(sys.argv[1])) as temporary:
    (temporary / "other").touch()
"""


def is_free(path):
    with abandoned(path) as free:
        return free


def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["exits", "is killed"])
def test_a_folder_is_held_as_long_as_its_process_lives(end, tmp_path):
    process = holder(tmp_path)
    try:
        assert not is_free(tmp_path)
        process.kill() if end == "is killed" else process.stdin.close()
        process.wait(30)
        assert is_free(tmp_path)
    finally:
        process.kill()
        process.wait(30)


def test_a_folder_that_is_a_link_or_is_not_there_is_not_free(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert not is_free(tmp_path / "link")
    assert not is_free(tmp_path / "none")


def test_a_folder_that_was_removed_before_it_was_held_is_not_used(tmp_path):
    (tmp_path / "gone").mkdir()
    with pytest.raises(FileNotFoundError):
        held(tmp_path / "none").__enter__()


def elsewhere():
    """The command that gives a process another set of process numbers, where this system allows that."""
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    works = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


def test_what_a_living_process_builds_is_not_removed_from_another_container(tmp_path):
    path = tmp_path / "sweep"
    with whole_folder(path) as temporary:
        (temporary / "mine").touch()
        done = subprocess.run([*elsewhere(), sys.executable, "-c", _BUILD, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (temporary / "mine").exists()
        shutil.rmtree(path)
    assert [each.name for each in path.iterdir()] == ["mine"]


def test_what_a_living_process_builds_is_not_removed_though_its_number_is_free(tmp_path):
    path = tmp_path / "sweep"
    blind = f"import os\nos.kill = lambda *a: (_ for _ in ()).throw(ProcessLookupError())\n{_BUILD}"
    with whole_folder(path) as temporary:
        done = subprocess.run([sys.executable, "-c", blind, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert temporary.exists()
        shutil.rmtree(path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    program = _BUILD.replace('"other").touch()', '"other").touch()\n    import os\n    os.kill(os.getpid(), 9)')
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "sweep")], check=False)
    (left,) = tmp_path.iterdir()
    with whole_folder(tmp_path / "sweep") as temporary:
        assert not left.exists()
        assert Path(temporary).exists()
    assert [each.name for each in tmp_path.iterdir()] == ["sweep"]
