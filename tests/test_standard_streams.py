"""Closed standard streams lead nowhere, and no file gets their numbers."""

import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
from pullback.standard_streams import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    print("result", flush=True)
    print("result", file=sys.stderr, flush=True)
    os.write(1, b"x")
    os.write(2, b"x")
    assert sys.stdin.read() == ""
    file.write("kept")
"""


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", ""])
def test_nothing_that_is_printed_gets_into_another_file(closed, tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    command = f'exec "$0" "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(tmp_path / "program.py"), str(tmp_path / "out")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == "kept"
