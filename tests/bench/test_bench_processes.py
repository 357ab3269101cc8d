"""The processes in which is measured: what they print, how they die and that none is left."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from bench_settings import SETTINGS

from pullback.bench.processes import Child, ChildError, sentence_of
from pullback.errors import PullbackError, SpecError

TESTS = Path(__file__).parent.parent
OWN = """
import os
import signal
from toy_generators import Smooth

class Talkative(Smooth):
    def forward(self, z, condition=None):
        print('{"seconds": 0}', flush=True)
        return super().forward(z)

def talkative():
    return Talkative()

def killed():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "bench_generators.py").write_text(OWN)
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the library of that name')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def child():
    started = Child("pullback.bench.child")
    yield started
    started.end()


def load(child, generator):
    return child.ask("load", generator=generator, path=[str(TESTS)], **{**SETTINGS, "threads": 1, "points": 1})


def test_a_process_answers_whatever_a_generator_prints(own, child):
    facts = load(child, "bench_generators:talkative")
    assert (facts["latent_dim"], facts["threads"], facts["versions"]["torch"]) == (6, 1, torch.__version__)
    assert child.ask("floor", batch=2)["seconds"] > 0
    with pytest.raises(ChildError, match="'nothing' is not one of auto") as raised:
        child.ask("run", method="nothing", precision="float32")
    assert len(raised.value.problems) == 1
    assert child.ask("run", method="gauss_newton", precision="float32")["points"] == 1  # it goes on after an error


def test_a_process_that_dies_says_how(own, child):
    with pytest.raises(ChildError, match="SIGKILL"):
        load(child, "bench_generators:killed")
    with pytest.raises(ChildError, match="SIGKILL"):
        child.ask("floor", batch=1)


def test_a_process_ends_with_its_parent_however_that_ends(own):
    code = f"""
from pullback.bench.processes import Child
child = Child("pullback.bench.child")
child.ask("load", generator="toy_generators:slow", path=[{str(TESTS)!r}], **{ {**SETTINGS, "points": 10_000}!r})
print(child.pid, flush=True)
child.ask("run", method="lanczos", precision="float32")
"""
    parent = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    measuring = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    assert measuring.is_running()
    parent.kill()
    parent.communicate()
    psutil.wait_procs([measuring], timeout=10)
    assert not measuring.is_running() or measuring.status() == psutil.STATUS_ZOMBIE


def test_an_error_becomes_one_sentence():
    errors = SpecError(["a: is\nwrong", "b: too"]), PullbackError("what\n  it is"), ValueError("one\ntwo"), KeyError()
    sentences = ["a: is wrong; b: too", "what it is", "ValueError: one", "KeyError"]
    assert [sentence_of(error) for error in errors] == sentences
