"""What a kill or an interrupt costs: nothing that was committed, and the same command again finishes the work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from pullback.errors import StoreError
from pullback.store.reader import Sweep, open_sweep
from pullback.store.repository import hold
from pullback.sweep.control import state_of

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


def start(folder: Path, *options: str, job: str = "job.yaml") -> subprocess.Popen[str]:
    """`pullback run` as a user's shell would start it, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "pullback", "run", job, *options],
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


def test_any_kills_at_any_time_end_in_the_store_of_a_clean_run(folder):
    """Workers and drivers, at random: what is committed is not repeated, and the numbers are those of no kill."""
    chance, kills, seen = random.Random(7), 0, {}
    process = start(folder)
    while True:
        time.sleep(chance.uniform(0.5, 2.5))
        if process.poll() is not None:
            code, messages = finish(process)
            if code in (0, 4):
                break
            assert code in (1, -signal.SIGKILL), messages
            process = start(folder)
            continue
        with suppress(StoreError):
            now = committed(open_sweep(folder / "slow"))
            assert seen.items() <= now.items(), "a committed sample was lost, or computed again"
            seen = now
        if kills < 8:
            victims = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_actor(child)]
            victim = process if kills in (3, 6) else chance.choice(victims) if victims else None
            if victim is not None and seen:
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                kills += 1
    assert kills >= 4, "it was over too soon: nothing was tested"
    clean_job = JOB.replace("store: slow", "store: clean").replace("shard_size: 1", "shard_size: 7")
    (folder / "clean.yaml").write_text(clean_job)
    clean = start(folder, "--serial", job="clean.yaml")
    assert finish(clean)[0] == 0
    found, wanted = (open_sweep(folder / name).dataset(only_good=False) for name in ("slow", "clean"))
    assert (found.status.values == 1).all()
    np.testing.assert_array_equal(found["latent"].values, wanted["latent"].values)
    np.testing.assert_allclose(found["eigenvalue"].values, wanted["eigenvalue"].values, rtol=1e-5)


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pullback", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def state(folder: Path) -> dict:
    return state_of(folder / "slow").as_dict()


def test_a_submitted_sweep_is_told_rightly_at_every_moment_and_can_be_cancelled_and_gone_on_with(folder):
    code, said = command(folder, "submit", "job.yaml")
    assert (code, "submitted: slow" in said) == (0, True), said
    assert "attached; it runs already" in command(folder, "submit", "job.yaml")[1]
    assert json.loads(command(folder, "status", "job.yaml", "--json")[1])["state"] in (
        "submitted",
        "starting",
        "running",
    )
    assert command(folder, "status", "job.yaml", "--exit-code")[0] == 3
    deadline = time.monotonic() + 90
    while (now := state(folder))["good"] < 2 and time.monotonic() < deadline:
        assert now["state"] in ("submitted", "starting", "running"), now
        time.sleep(0.1)
    driver = psutil.Process(now["driver"]["pid"])
    children = driver.children(recursive=True)
    driver.kill()
    psutil.wait_procs([driver], timeout=20)
    killed = state(folder)
    assert (killed["state"], killed["exit_code"]) == ("stopped", 1)
    assert "submit the same job to go on" in killed["message"]
    psutil.wait_procs(children, timeout=30)

    assert "submitted: slow" in command(folder, "submit", "job.yaml")[1]
    while state(folder)["state"] != "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert command(folder, "cancel", "job.yaml")[0] == 0
    assert command(folder, "status", "job.yaml", "--watch")[0] == 0
    cancelled = state(folder)
    assert (cancelled["state"], cancelled["pending"] > 0) == ("cancelled", True)
    assert cancelled["good"] >= killed["good"]
    assert command(folder, "cancel", "job.yaml")[0] == 1

    assert command(folder, "run", "job.yaml")[0] == 0
    assert command(folder, "status", "slow", "--exit-code")[0] == 0
    events = [json.loads(line)["event"] for line in command(folder, "logs", "job.yaml")[1].splitlines()]
    assert events.count("run") == 3
    assert [event for event in events if event in ("cancelled", "done")] == ["cancelled", "done"]


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
        return process.cmdline()[0].startswith("ray::Actor")
    except (psutil.NoSuchProcess, IndexError):
        return False
