"""What a kill or an interrupt costs: nothing that was committed, and the same command again finishes the work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pullback.errors import StoreError
from pullback.store.reader import Sweep, open_sweep
from pullback.store.repository import hold

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.xdist_group("ray")]

TESTS = Path(__file__).parent.parent
JOB = """\
name: slow
generator: toy_generators:slow
distance: mse
samples: {count: 40, seed: 5}
store: slow
resources: {workers: 2, shard_size: 1, device: cpu}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`pullback run` as a user's shell would start it, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "pullback", "run", "job.yaml", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    _, messages = process.communicate(timeout=timeout)
    return process.returncode, messages


def wait_for_samples(folder: Path, count: int, process: subprocess.Popen[str]) -> Sweep:
    """The sweep as soon as it has so many committed samples."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended too early: {process.communicate()[1]}"
        try:
            sweep = open_sweep(folder / "slow")
        except StoreError:
            time.sleep(0.1)
            continue
        if sweep.status().good >= count:
            return sweep
        time.sleep(0.1)
    raise AssertionError("the sweep made no progress")


def committed(sweep: Sweep) -> dict[int, tuple[float, bytes]]:
    """What identifies the computation of each finished sample: its duration, which no second one would repeat."""
    dataset = sweep.dataset().load()
    return {
        int(sample): (float(seconds), vectors.tobytes())
        for sample, seconds, vectors in zip(
            dataset["sample"].values, dataset["seconds"].values, dataset["eigenvector"].values, strict=True
        )
    }


def test_killing_the_driver_loses_no_committed_shard_and_the_next_run_finishes(folder):
    process = start(folder)
    before = committed(wait_for_samples(folder, 3, process))
    process.kill()
    finish(process)
    left = committed(open_sweep(folder / "slow"))
    assert before.items() <= left.items()
    assert len(left) < 40, "it was not interrupted in the middle: nothing was tested"

    code, messages = finish(start(folder))
    assert code == 0, messages
    after = committed(open_sweep(folder / "slow"))
    assert len(after) == 40
    assert left.items() <= after.items(), "a committed sample was computed again"

    code, messages = finish(start(folder))
    assert code == 0
    assert "nothing to do" in messages
    assert committed(open_sweep(folder / "slow")) == after

    # and serially, elsewhere, in other shards: the same codes to the bit, the same spectra
    (folder / "job.yaml").write_text(
        JOB.replace("store: slow", "store: serial").replace("shard_size: 1", "shard_size: 7")
    )
    code, messages = finish(start(folder, "--serial"))
    assert code == 0, messages
    parallel, serial = open_sweep(folder / "slow").dataset(), open_sweep(folder / "serial").dataset()
    np.testing.assert_array_equal(parallel["latent"].values, serial["latent"].values)
    np.testing.assert_allclose(parallel["eigenvalue"].values, serial["eigenvalue"].values, rtol=1e-5)


def test_killing_an_actor_costs_a_retry_and_nothing_else(folder):
    process = start(folder)
    wait_for_samples(folder, 2, process)
    actors = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_actor(child)]
    assert len(actors) == 2
    actors[0].kill()
    code, messages = finish(process)
    assert code == 0, messages
    assert open_sweep(folder / "slow").status().good == 40


def test_a_second_driver_of_a_sweep_is_refused_and_told_who_holds_it(folder):
    with hold(folder / "slow"):
        code, messages = finish(start(folder, "--serial"))
    assert code == 1
    assert f"process {os.getpid()}" in messages
    assert "Traceback" not in messages
    assert not (folder / "slow").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_what_is_done_and_says_how_to_go_on(folder, number):
    process = start(folder)
    before = committed(wait_for_samples(folder, 2, process))
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal does
    code, messages = finish(process)
    assert code == 130, messages
    assert "nothing that was saved is lost" in messages
    assert "to go on: pullback run job.yaml" in messages
    assert "Traceback" not in messages
    left = committed(open_sweep(folder / "slow"))
    assert before.items() <= left.items()
    assert len(left) < 40
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "processes were left behind"


def _is_actor(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith("ray::Worker")
    except (psutil.NoSuchProcess, IndexError):
        return False
