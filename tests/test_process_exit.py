"""How a process ends after its work."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, ctypes, logging, logging.handlers, sys, threading, time
from pullback.process_exit import exit_with, skip_finalization

class AtFinalization:
    def __del__(self):
        print("finalized", file=sys.stderr)

kept = AtFinalization()
skip_finalization()
atexit.register(print, "an exit function")
buffered = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
logging.getLogger().addHandler(buffered)
logging.warning("a log record")
print("Python's text")
ctypes.CDLL(None).puts(b"text of a C library")
{end}
"""


def ended(tmp_path, end):
    (tmp_path / "program.py").write_text(PROGRAM.format(end=end))
    command = [sys.executable, "program.py"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="the text of a C library cannot be flushed on Windows")
def test_all_text_is_written_and_finalization_is_skipped(tmp_path):
    done = ended(tmp_path, "exit_with(3)")
    assert done.returncode == 3
    assert {"Python's text", "text of a C library", "an exit function", "a log record"} <= {*done.stdout.splitlines()}
    assert done.stderr == ""


def test_threads_that_are_no_daemons_end_first(tmp_path):
    done = ended(
        tmp_path, "threading.Thread(target=lambda: (time.sleep(0.3), print('the thread'))).start()\nexit_with(0)"
    )
    assert done.returncode == 0
    assert "the thread" in done.stdout


def test_an_exit_that_is_not_planned_is_pythons_own(tmp_path):
    done = ended(tmp_path, "raise RuntimeError('planned by nobody')")
    assert done.returncode == 1
    assert "planned by nobody" in done.stderr
    assert "finalized" in done.stderr
