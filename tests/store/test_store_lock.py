import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pullback.errors import StoreError
from pullback.store.lock import driver_lock
from pullback.store.reader import list_sweeps

HOLDER = (
    "import sys, time; from pullback.store.lock import driver_lock\n"
    "with driver_lock(sys.argv[1]):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


def test_a_second_driver_is_shown_who_holds_the_sweep_until_that_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"held by process {process.pid} on "), driver_lock(path):
            pytest.fail("two drivers at once")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    with driver_lock(path):
        pass


def test_the_same_process_cannot_hold_a_sweep_twice(tmp_path: Path) -> None:
    with driver_lock(tmp_path / "sweep"):
        with pytest.raises(StoreError, match=f"held by process {os.getpid()}"), driver_lock(tmp_path / "sweep"):
            pytest.fail("two drivers at once")
        with driver_lock(tmp_path / "other"):
            pass


def test_a_failed_block_releases_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), driver_lock(tmp_path / "sweep"):
        raise RuntimeError
    with driver_lock(tmp_path / "sweep"):
        pass


def test_the_lock_is_no_sweep(tmp_path: Path) -> None:
    with driver_lock(tmp_path / "sweep"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == [".sweep.lock"]
    assert list_sweeps(tmp_path) == []


def test_a_hold_from_which_nothing_came_leaves_no_folders(tmp_path: Path) -> None:
    with driver_lock(tmp_path / "new" / "sweep"):
        assert (tmp_path / "new").is_dir()
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be locked"), driver_lock(tmp_path / "file" / "sweep"):
        pytest.fail("nothing can be held")
