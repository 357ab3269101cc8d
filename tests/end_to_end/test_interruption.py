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

from command_line import call
from pullback.driving.sweep_state import sweep_state
from pullback.errors import StoreError
from pullback.store.lock import driver_lock
from pullback.store.reader import Sweep, open_sweep

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.xdist_group("ray-commands")]

TESTS = Path(__file__).parent.parent
KILLS = int(os.environ.get("PULLBACK_TEST_KILLS", "4"))
"""Of processes at random; a hundred take a quarter of an hour."""
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


def test_any_kills_at_any_time_end_in_the_store_of_a_clean_run(folder, monkeypatch):
    """Workers and drivers, at random: what is committed is not repeated, and the numbers are those of no kill."""
    chance, kills, seen = random.Random(7), 0, {}
    job = JOB.replace("count: 40", f"count: {30 + 6 * KILLS}")
    (folder / "job.yaml").write_text(job)
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
        if kills < KILLS:
            victims = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_actor(child)]
            victim = process if kills % 4 == 2 else chance.choice(victims) if victims else None
            if victim is not None and seen:
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                kills += 1
    assert kills == KILLS, "it was over too soon: nothing was tested"
    # the same images without the sleep
    for there, here in (("store: slow", "store: clean"), ("shard_size: 1", "shard_size: 7"), (":slow", ":smooth")):
        job = job.replace(there, here)
    (folder / "clean.yaml").write_text(job)
    monkeypatch.chdir(folder)
    assert call("run", "clean.yaml", "--serial").code == 0
    found, wanted = (open_sweep(folder / name).dataset(only_good=False) for name in ("slow", "clean"))
    assert (found.status.values == 1).all()
    np.testing.assert_array_equal(found["latent"].values, wanted["latent"].values)
    np.testing.assert_allclose(found["eigenvalue"].values, wanted["eigenvalue"].values, rtol=1e-5)


def state(folder: Path) -> dict:
    return sweep_state(folder / "slow").as_dict()


def test_a_submitted_sweep_is_reported_rightly_at_every_moment_and_can_be_cancelled_and_resumed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    (folder / "job.yaml").write_text(JOB.replace("count: 40", "count: 200"))
    result = call("submit", "job.yaml")
    assert (result.code, "submitted: slow" in result.err) == (0, True), result
    assert "attached; it runs already" in call("submit", "job.yaml").err
    assert call("status", "job.yaml", "--json").json["state"] in ("submitted", "starting", "running")
    assert call("status", "job.yaml", "--exit-code").code == 3
    deadline = time.monotonic() + 90
    while (now := state(folder))["good"] < 2 and time.monotonic() < deadline:
        assert now["state"] in ("submitted", "starting", "running"), now
        time.sleep(0.1)
    driver = psutil.Process(now["driver"]["pid"])
    driver.kill()
    psutil.wait_procs([driver], timeout=20)
    killed = state(folder)
    assert (killed["state"], killed["exit_code"]) == ("stopped", 1)
    assert "submit the same job to resume" in killed["message"]

    assert "submitted: slow" in call("submit", "job.yaml").err
    while state(folder)["state"] != "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert call("cancel", "job.yaml").code == 0
    assert call("status", "job.yaml", "--watch").code == 0
    cancelled = state(folder)
    assert (cancelled["state"], cancelled["pending"] > 0) == ("cancelled", True)
    assert cancelled["good"] >= killed["good"]
    assert call("cancel", "job.yaml").code == 1
    events = [json.loads(line)["event"] for line in call("logs", "job.yaml").out.splitlines()]
    assert (events.count("run"), events[-1]) == (2, "cancelled")


def test_a_second_driver_of_a_sweep_is_refused_with_the_name_of_the_holder(folder):
    with driver_lock(folder / "slow"):
        code, messages = finish(start(folder, "--serial"))
    assert code == 1
    assert f"process {os.getpid()}" in messages
    assert "Traceback" not in messages
    assert not (folder / "slow").exists()


@pytest.mark.parametrize(("number", "options"), [(signal.SIGINT, []), (signal.SIGTERM, ["--serial"])])
def test_an_interrupt_saves_what_is_done_and_says_how_to_go_on(folder, number, options):
    (folder / "job.yaml").write_text(JOB.replace("count: 40", "count: 200"))
    process = start(folder, *options)
    before = committed(wait_for_samples(folder, 2, process))
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal does
    code, messages = finish(process)
    assert code == 130, messages
    assert "to resume: pullback run job.yaml" in messages
    assert "Traceback" not in messages
    left = committed(open_sweep(folder / "slow"))
    assert before.items() <= left.items()
    assert len(left) < 200
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "processes were left behind"


def _is_actor(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith("ray::Actor")
    except (psutil.NoSuchProcess, IndexError):
        return False
