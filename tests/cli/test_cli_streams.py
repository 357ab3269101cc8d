"""Every command that prints, in encodings without λ, at narrow widths, into full disks, closed pipes and odd places."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from command_line import call
from pullback import cli
from pullback.cli.common import err, shown
from pullback.cli.tables import Columns, Pairs
from pullback.cli.terminal import Output, shell_word, written

FOLDER = "späte läufe λ"
STORE = "sweeps/名 é-1"
JOB = f"""\
name: mine
generator: toy_generators:smooth
distance: mse
samples: {{count: 5}}
store: {STORE}
resources: {{shard_size: 2, workers: 1}}
"""
READING = {
    "show": ["show", STORE],
    "ls": ["ls", "sweeps"],
    "snapshots": ["snapshots", STORE],
    "status": ["status", STORE],
    "logs": ["logs", STORE],
    "audit": ["audit", STORE],
    "gc": ["gc", STORE],
    "analyze": ["analyze", STORE, "--draws", "10"],
    "generators": ["generators", "list"],
    "generator": ["generators", "show", "toy_generators:smooth"],
    "weights": ["weights", "list"],
    "tokens": ["tokens", "list"],
    "plugins": ["plugins"],
    "bench": ["bench", "scheduler", "--gpus", "2"],
}
OTHERS = {
    "plan": ["plan", "job.yaml"],
    "run": ["run", "job.yaml", "--serial"],
    "cancel": ["cancel", STORE],
    "export": ["export", STORE, "out λ.zarr"],
    "report": ["report", STORE, "--out", "r λ.html", "--draws", "10"],
    "submit": ["submit", "job.yaml"],
    "remove": ["tokens", "remove", "bo"],
    "add": ["tokens", "add", "anna", "--scope", "read"],
    "fetch": ["weights", "fetch", "λ"],
    "convert": ["weights", "convert", "λ.pt", "out λ.safetensors"],
    "doctor": ["generators", "doctor", "toy_generators:nothing λ"],
    "serve": ["serve", "--host", "192.0.2.1"],
    "bench metric": ["bench", "metric", "--generator", "toy_generators:nothing λ", "--rounds", "1"],
    "bench scaling": ["bench", "scaling", "--generator", "toy_generators:nothing λ", "--workers", "λ"],
    "bench analysis": ["bench", "analysis", "--samples", "λ"],
    "bench inversion": ["bench", "inversion", "--generator", "toy_generators:nothing λ"],
    "bench search": ["bench", "search", "sweeps/見"],
    "compare": ["compare", STORE, "sweeps/見"],
    "import": ["import", "λ.npz", "--into", "in λ"],
    "cite": ["cite", "--λ"],
    "figure": ["figure", "λ", STORE],
    "invert": ["invert", "λ.png", "--generator", "toy_generators:nothing λ"],
    "axes": ["axes", "sweeps/見"],
    "search": ["search", "sweeps/見", "--score", "nothing:λ"],
    "no sweep": ["show", "sweeps/見"],
    "wrong job": ["plan", "wrong λ.yaml"],
    "wrong option": ["gc", STORE, "--older-than", "λ"],
    "help": ["--help"],
    "help of run": ["run", "--help"],
    "help of serve": ["serve", "--help"],
}
JSON = [
    "show",
    "ls",
    "snapshots",
    "status",
    "audit",
    "gc",
    "analyze",
    "generators",
    "weights",
    "tokens",
    "bench",
    "plugins",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose name has a space and is not ASCII, with a finished sweep likewise."""
    path, before = tmp_path_factory.mktemp("streams") / FOLDER, Path.cwd()
    path.mkdir()
    os.chdir(path)
    Path("job.yaml").write_text(JOB, encoding="utf-8")
    Path("wrong λ.yaml").write_text("name: λ\ngenerator: 見\n", encoding="utf-8")
    try:
        assert call("run", "job.yaml", "--serial").code == 0
        assert call("tokens", "add", "anna", "--scope", "read").code == 0
        yield path
    finally:
        os.chdir(before)


def encoded(arguments, encoding, errors="strict"):
    """What a command writes to streams of an encoding: its exit code, and the bytes of both."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in "oe"]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as kept:
        for stream, redirect in zip(streams, (contextlib.redirect_stdout, contextlib.redirect_stderr), strict=True):
            kept.enter_context(redirect(stream))
        patch.setattr("contextlib.redirect_stdout", contextlib.nullcontext)
        patch.setattr("contextlib.redirect_stderr", contextlib.nullcontext)
        code = call(*arguments).code
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue() for stream in streams)


def test_every_command_is_tried():
    from typer.main import get_command

    def names(command, before=()):
        inner = getattr(command, "commands", None)
        return [before] if inner is None else [each for name in inner for each in names(inner[name], (*before, name))]

    tried = [tuple(words) for words in (*READING.values(), *OTHERS.values())]
    missing = [name for name in names(get_command(cli.app)) if not any(words[: len(name)] == name for words in tried)]
    assert missing == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("name", READING)
def test_every_reading_command_writes_what_an_encoding_lacks_in_words(folder, name, encoding):
    code, out, messages = encoded(READING[name], encoding)
    assert code == 0, messages
    for text in (out.decode(encoding), messages.decode(encoding)):
        assert "Traceback" not in text
        assert not re.search(r"\?{2}|\w\?\w", text), "a character was replaced by a question mark"


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_command_and_error_is_written_in_ascii(folder, name):
    code, out, messages = encoded(OTHERS[name], "ascii")
    assert code in (0, 1, 2)
    assert (out + messages).decode("ascii").strip()
    assert b"Traceback" not in messages


@pytest.mark.parametrize("name", JSON)
def test_json_is_the_same_ascii_whatever_the_encoding(folder, name):
    arguments = [*READING[name], "--json"]
    contents = [json.loads(encoded(arguments, encoding)[1].decode("ascii")) for encoding in ("ascii", "utf-8")]
    if name != "bench":  # which measures time
        assert contents[0] == contents[1]
    if name in ("show", "ls"):
        row = contents[0] if name == "show" else contents[0][0]
        assert row["path"] == STORE


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("name", ["show", "ls", "snapshots", "status", "analyze", "weights", "plan", "run", "cancel"])
def test_names_are_whole_at_every_width(folder, monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    result = call(*{**READING, **OTHERS}[name])
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.out + result.err)
    wanted = {
        "ls": ["mine", "toy_generators:smooth", STORE],
        "show": ["toy_generators:smooth", STORE.split()[1]],
        "snapshots": [json.loads(call("snapshots", STORE, "--json").out)[0]["id"]],
        "plan": ["toy_generators:smooth", "pullback run job.yaml"],
        "run": [STORE],
        "cancel": [STORE],
        "weights": ["trunk-squeeze"],
    }.get(name, [])
    assert [each for each in wanted if each not in text] == []
    shown_words = {word for line in result.out.splitlines() for word in line.split()}
    for line in result.out.splitlines():
        plain = Text.from_ansi(line)
        assert plain.cell_len <= columns or len(line.split()) <= 5 or max(map(len, shown_words)) > columns / 2, line


def printed(what, columns, encoding="utf-8"):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Output(file=stream, width=columns, highlight=False).print(what)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("columns", [12, 20, 40, 60, 80, 200])
def test_a_table_folds_between_words_only(columns):
    table = Columns(["=name", "what it is", ">n", "=path"])
    names = ["a-name-without-spaces", "another/one of/them"]
    for name in names:
        table.add_row(name, "some words that may be folded wherever there is a space", "123456", f"folder/{name}")
    text = printed(table, columns)
    for name in names:
        assert text.count(name) == 2
    assert "123456" in text
    words = set(text.split())
    assert {"some", "folded", "wherever", "space"} <= words
    assert max(map(len, text.splitlines())) <= max(columns, len("path") + 2 + len("folder/a-name-without-spaces") + 8)


@pytest.mark.parametrize("columns", [10, 40, 80])
def test_pairs_keep_long_words_whole(columns):
    digest = "381933bf5ef0b80215b4f9c27f7da155023ed4d9315f5d4e3366b2a888b84dad"
    text = printed(Pairs({"weights": f"own: {digest}", "note": "λ × 2\nsecond line"}), columns, "ascii")
    assert digest in text
    assert "lambda x 2" in " ".join(text.split())
    assert "second" in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_character_has_a_replacement_that_was_chosen(encoding):
    assert written("λ × −1 ≥ Σ – …", "ascii") == "lambda x -1 >= Sigma - ..."
    assert written("é", "ascii") == r"\xe9"
    assert written("名", encoding) == ("名" if encoding == "utf-8" else r"\u540d")
    assert written("bad\udcff", encoding) == r"bad\xff"
    assert written("\x1b[31mred\r", encoding) == r"\x1b[31mred\x0d"
    assert written("line\nnext\ttab", encoding) == "line\nnext\ttab"


def test_every_character_of_our_own_texts_has_a_replacement():
    package = Path(sys.modules["pullback"].__file__).parent
    used = set()
    for path in (*package.glob("*.py"), *package.glob("cli/*.py"), *package.glob("sweep/*.py"), package / "errors.py"):
        if path.name != "terminal.py":
            used |= {character for character in path.read_text(encoding="utf-8") if not character.isascii()}
    assert {character for character in used if written(character, "ascii").startswith("\\")} == set()


@pytest.mark.parametrize(
    "name", ["a b", "é", "名 x", "it's", "new\nline", "tab\t", "esc\x1b[0m", "$(x)", "-x", "bad\udcff"]
)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_command_to_copy_names_the_same_file_in_every_encoding(name, encoding):
    word = shell_word(name, encoding)
    word.encode(encoding)
    copied = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert os.fsdecode(copied) == name
    assert err.encoding
    assert shown("plain/name") == "plain/name"


def shell(command, folder, **environment):
    """A shell's command with `$P` for pullback."""
    own = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}
    own |= {"PYTHONPATH": str(Path(__file__).parent.parent), "P": f"{sys.executable} -m pullback"}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        env={name: value for name, value in {**own, **environment}.items() if value is not None},
        capture_output=True,
        timeout=120,
    )


STREAMS = [
    ("$P ls sweeps > /dev/full", 1, b"No space left"),
    ("$P ls sweeps --json > /dev/full", 1, b"No space left"),
    ("$P generators list --json > /dev/full", 1, b"No space left"),
    ("$P --help > /dev/full", 1, b"No space left"),
    ("$P --version > /dev/full", 1, b"No space left"),
    ("$P generators list --json | true", 1, b""),
    ("$P ls sweeps >&-", 0, b""),
    ("$P ls nowhere 2> /dev/full", 0, b""),
    ("$P ls nowhere 2>&-", 0, b""),
    ("$P run job.yaml --serial 2> /dev/full", 0, b""),
    ("($P run job.yaml --serial; echo $? >&3) 2>&1 | true", 0, b""),
]


@pytest.mark.parametrize(("command", "code", "message"), STREAMS, ids=[command for command, _, _ in STREAMS])
def test_streams_that_cannot_be_written_cost_no_traceback(folder, command, code, message):
    done = shell(f"exec 3>/dev/null; {command}", folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    for unwanted in (b"Traceback", b"Exception ignored", b"BrokenPipe"):
        assert unwanted not in done.stderr


PLACES = {
    "warnings are errors": ("$P show '{s}' && $P analyze '{s}' --draws 10", {"PYTHONWARNINGS": "error"}),
    "-W error": (f"{sys.executable} -W error -m pullback report '{{s}}' --out r.html --draws 10", {}),
    "-O": (f"{sys.executable} -OO -m pullback show '{{s}}'", {}),
    "C locale": ("$P show '{s}'", {"LC_ALL": "C"}),
    "C locale, no coercion": ("$P show '{s}'", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "Turkish": ("$P ls sweeps", {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}),
    "notebook's backend": (
        "$P report '{s}' --out r.html --draws 10",
        {"MPLBACKEND": "module://matplotlib_inline.nowhere"},
    ),
    "absent ipympl and a read-only home": (
        "$P report '{s}' --out r.html --draws 10",
        {
            **{"MPLBACKEND": "ipympl", "HOME": "/proc", "XDG_CACHE_HOME": "/proc/c"},
            **{"XDG_CONFIG_HOME": "/proc/d", "XDG_STATE_HOME": "/proc/e"},
        },
    ),
    "no home": ("$P show '{s}' && $P weights list", {"HOME": None}),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_command_works_in_odd_environments(folder, name):
    command, environment = PLACES[name]
    done = shell(command.format(s=STORE), folder, **environment)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_user_without_a_home_has_folders_of_his_own_all_the_same(tmp_path, monkeypatch):
    from pathlib import Path as AnyPath

    from pullback import user_folders
    from pullback.api.paths import without_paths
    from pullback.errors import PullbackError

    def homeless(*arguments):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    monkeypatch.setattr(AnyPath, "home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = user_folders.cache_folder()
    assert (folder.parent, folder.stat().st_mode & 0o077) == (tmp_path, 0)
    assert call("weights", "list").code == 0
    assert without_paths("no such file: /srv/x/y.txt", tmp_path) == "no such file: …/y.txt"
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(PullbackError, match="another user"):
        user_folders.cache_folder()
