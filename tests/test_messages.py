"""What users read about their mistakes, word for word, in tests/golden/messages.txt.

Other tests assert the kind of an error, its exit code, and the path, name or number in it. The wording stands there
alone, so that it is read as a whole and changed in one place. After a change: RENEW_MESSAGES=1 pytest
tests/test_messages.py, and read the difference.
"""

import difflib
import os
import re
import shlex
import sys
from math import nan
from pathlib import Path

import pytest
import torch

import pullback
from command_line import call
from message_cases import CALLS, COMMANDS, fill
from pullback.errors import PullbackError, SpecError
from pullback.generators import zoo
from pullback.interchange.exports import LAYOUTS
from pullback.plugins import REGISTRIES
from pullback.spec import load_job
from pullback.weights.manifest import manifest as weights
from wrong_jobs import SMALL, WRONG_FORMS, WRONG_VALUES, ZOO

_NAME = r"[\w:+-]+(?:\.[\w+-]+)*"
GOLDEN = Path(__file__).parent / "golden" / "messages.txt"
HEAD = """\
Messages about mistakes, compared by tests/test_messages.py. Each entry has the mistake, the command or call with its
exit code or error, and the message. FOLDER stands for the working directory, IDENTITY for a hash, NAMES for a list
that grows with options, plug-ins and weights. Renew: RENEW_MESSAGES=1 pytest tests/test_messages.py
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with the files of the cases."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else usage begins with `python -m pytest`
    for name, value in {"COLUMNS": "120", "PULLBACK_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    sys.modules.pop("mine", None)


def of_job(content):
    """The problem of a job with this content."""
    path = Path("job.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError) as caught:
        load_job(path, generators=ZOO)
    return "\n".join(caught.value.problems)


def of_command(line):
    """A command's line, its exit code and its message."""
    printed = call(*shlex.split(line)[1:])
    assert printed.code, line
    assert printed.out == "", line
    return f"$ {line}\nexit code {printed.code}\n{printed.err}"


def of_call(source):
    """A call of the Python API, its error and the message."""
    names = {"pullback": pullback, "torch": torch, "nan": nan, "mse": pullback.load_distance("mse", device="cpu")}
    with pytest.raises((PullbackError, ValueError)) as caught:
        eval(source, names)
    return f">>> {source}\n{caught.type.__name__}\n{caught.value}"


def entries(folder):
    """The golden file's entries, by the name of their mistake."""
    found = {f"job: {name}": of_job(SMALL.replace(old, new, 1)) for name, (old, new, _) in WRONG_VALUES.items()}
    found |= {f"job: {name}": of_job(content) for name, (content, _) in WRONG_FORMS.items()}
    found |= {name: of_command(line) for name, line in COMMANDS.items()}
    found |= {name: of_call(source) for name, source in CALLS.items()}
    return {name: without_what_varies(text, folder).strip() for name, text in found.items()}


def without_what_varies(text, folder):
    """The text with placeholders for the folder, identities, and lists that grow with options, plug-ins and weights."""
    text = text.replace(str(folder.resolve()), "FOLDER").replace(str(folder), "FOLDER")
    text = re.sub(r"\b[0-9a-f]{16}\b", "IDENTITY", text)
    plugins = [name for kind in REGISTRIES for name in kind.names()]
    names = {*zoo(), *weights(), *LAYOUTS, *plugins, "module:function"}

    def placeholder(listed):
        return "NAMES" if names.issuperset(re.split(", | or ", listed[0])) else listed[0]

    text = re.sub(rf"{_NAME}(?:(?:, | or ){_NAME})+", placeholder, text)
    return re.sub(rf"allowed here are {_NAME}(?:, {_NAME})*", "allowed here are NAMES", text)


def test_every_message_reads_as_in_the_golden_file(here):
    written = "\n\n".join([HEAD.rstrip(), *(f"## {name}\n{text}" for name, text in entries(here).items())]) + "\n"
    if os.environ.get("RENEW_MESSAGES"):
        GOLDEN.write_text(written, encoding="utf-8")
    golden = GOLDEN.read_text(encoding="utf-8")
    changed = difflib.unified_diff(golden.splitlines(), written.splitlines(), "golden", "now", n=4, lineterm="")
    assert golden == written, "\n".join(["if this is meant, renew the golden file (CONTRIBUTING.md):", *changed])
