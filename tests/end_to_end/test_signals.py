"""Signals that ask to end: what is committed stays, the exit code says interrupted, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pullback.driving.background import start as submit
from pullback.driving.control import read_record
from pullback.errors import StoreError
from pullback.signals import ENDING
from pullback.spec import JobSpec
from pullback.store.reader import open_sweep

pytestmark = [pytest.mark.end_to_end]

TESTS = Path(__file__).parent.parent
JOB = """\
name: slow
generator: toy_generators:slow
distance: mse
samples: {count: 60, seed: 5}
store: slow
resources: {workers: 1, shard_size: 1, device: cpu}
"""
EXIT_INTERRUPTED = 130


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def start(folder, *options, prefix=(), command="run"):
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "pullback", command, "job.yaml", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def good(folder):
    try:
        return open_sweep(folder / "slow").status().good
    except StoreError:
        return 0


def until(folder, process, what):
    deadline = time.monotonic() + 90
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=["SIGHUP", "SIGUSR1"])
def test_every_signal_that_asks_to_end_commits_what_is_done(folder, number):
    process = start(folder, "--serial")
    until(folder, process, lambda: good(folder) >= 1)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, messages
    assert "Traceback" not in messages
    assert 1 <= good(folder) < 60
    record = read_record(folder / "slow")
    assert record is not None
    assert record.life == "interrupted"


def test_signals_before_the_first_result_and_amid_commits_leave_a_sweep_that_goes_on(folder):
    """At moments spread over the start and the first commits; one store through all of them."""
    before = 0
    for wait, number in zip((0.0, 0.6, 1.2, 1.8, 2.4), ENDING, strict=True):
        process = start(folder, "--serial")
        # until Python runs this package, a signal has its usual effect: there is nothing to commit
        until(folder, process, lambda p=process: signal.SIGHUP in _caught(p.pid))
        time.sleep(wait)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
        assert process.returncode == EXIT_INTERRUPTED, messages
        assert "Traceback" not in messages
        assert good(folder) >= before, "a committed sample was lost"
        before = good(folder)


def _caught(pid):
    """The signals that a process handles, as Linux lists them."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return set()
    mask = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("SigCgt:"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_a_closed_terminal_does_not_end_what_nohup_runs(folder):
    (folder / "job.yaml").write_text(JOB.replace("count: 60", "count: 8"))
    process = start(folder, "--serial", prefix=("nohup",))
    until(folder, process, lambda: good(folder) >= 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert good(folder) == 8


@pytest.mark.ray
@pytest.mark.xdist_group("ray-commands")
@pytest.mark.parametrize(("number", "ready"), [(signal.SIGHUP, True), (signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_to_the_whole_group_ends_the_workers_after_their_results_are_committed(folder, number, ready):
    """As a terminal sends it when it closes, twice; and SIGTERM while Ray starts."""
    process = start(folder)
    if ready:
        until(folder, process, lambda: good(folder) >= 1)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)
        time.sleep(0.2)
        os.killpg(process.pid, number)
    else:
        until(folder, process, lambda: psutil.Process(process.pid).children(recursive=True))
        time.sleep(0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
    _, messages = process.communicate(timeout=90)
    assert process.returncode == EXIT_INTERRUPTED, messages
    assert "Traceback" not in messages
    assert good(folder) >= (1 if ready else 0)
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left, "processes were left behind"


LOST = """
import os, time
from pullback.signals import end_on_signals
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number})
        for _ in range(1000):
            pass
end_on_signals()
try:
    Finalized()
    time.sleep(20)
except KeyboardInterrupt:
    raise SystemExit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_within_a_finalizer_is_not_lost(number):
    code = LOST.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


HANDLED = """
import os, signal
from pullback.signals import end_on_signals, leave
end_on_signals()
try:
    exec("os.kill(os.getpid(), signal.SIGTERM)\\nfor _ in range(1000): pass")  # as dataclasses run what they wrote
except KeyboardInterrupt:
    leave(7)
"""
AT_THE_END = """
import atexit, os, signal
from pullback.signals import ENDING, end_on_signals, leave
class Late:
    def __del__(self):  # after Python has restored the usual effect of the signals that it handles
        for number in ENDING:
            os.kill(os.getpid(), number)
end_on_signals()
late = Late()
@atexit.register
def end():
    for number in (signal.SIGINT, *ENDING):
        os.kill(os.getpid(), number)
leave(7)
"""
AT_THE_START = """
import os, signal
from pullback import signals
real = signal.signal
def installed(number, handler):
    before = real(number, handler)
    for each in signals.ENDING:
        os.kill(os.getpid(), each)
    return before
signal.signal = installed
try:
    signals.end_on_signals()
except KeyboardInterrupt:
    complete = all(signal.getsignal(number) is signals._interrupt for number in signals.ENDING)
    signals.leave(7 if complete else 1)
"""


IN_AN_IMPORT = """
import os, signal, sys
from pathlib import Path
from pullback.signals import end_on_signals, leave
Path("slow_import.py").write_text("import os, time\\nos.kill(os.getpid(), {number})\\ntime.sleep(0.3)\\ndone = True\\n")
end_on_signals()
try:
    try:
        import slow_import
    except BaseException:  # as libraries hide what an import raises
        leave(1)
    for _ in range(10 ** 9):
        pass
except KeyboardInterrupt:
    leave(7 if slow_import.done else 1)
"""
MOMENTS = {
    "handled in exec": HANDLED,
    "at the end": AT_THE_END,
    "at the start": AT_THE_START,
    "in an import": IN_AN_IMPORT.replace("{number}", str(int(signal.SIGUSR1))),
    "Ctrl-C in an import": IN_AN_IMPORT.replace("{number}", str(int(signal.SIGINT))),
}


@pytest.mark.parametrize("code", MOMENTS.values(), ids=MOMENTS)
def test_a_signal_at_any_moment_leaves_the_exit_code_to_the_program(tmp_path, code):
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_submitted_driver_commits_and_can_be_gone_on_with(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    job = JobSpec.model_validate(yaml.safe_load(JOB))
    command = (sys.executable, "-m", "pullback", "run", "--serial")
    assert submit(job, command)
    deadline = time.monotonic() + 90
    while good(folder) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    driver = psutil.Process(read_record("slow").pid)
    driver.send_signal(signal.SIGUSR1)
    psutil.wait_procs([driver], timeout=60)
    record = read_record("slow")
    assert (record.life, record.alive) == ("interrupted", False)
    assert 1 <= good(folder) < 60
