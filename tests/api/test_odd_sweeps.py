"""One sweep that cannot be read hides no other: in the list, in the metrics and in `pullback ls`."""

import contextlib
import ctypes
import json
import logging
import os
import random
import shutil
import socket
import time

import httpx
import pytest
from served_sweeps import LAYOUT, commit, serving

from pullback.api.backend import LocalBackend
from pullback.errors import StoreError
from pullback.store import opening
from pullback.store.creation import create
from pullback.store.reader import list_sweeps, open_sweep


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sweep to make copies of."""
    path = tmp_path_factory.mktemp("sound") / "sound"
    commit(create(path, LAYOUT, {"name": "sound", "sweep_id": "0123456789abcdef"}), 0, 2)
    return path


def unreadable(place, sound):
    shutil.copytree(sound, place)
    place.chmod(0)


def unreadable_reference(place, sound):
    shutil.copytree(sound, place)
    (place / "refs").chmod(0)
    (place / "snapshots").chmod(0)


def named_pipe(place, sound):
    os.mkfifo(place)


def a_socket(place, sound):
    here = os.open(".", os.O_RDONLY)
    os.chdir(place.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place.name)
    os.fchdir(here)
    os.close(here)


def circle_of_links(place, sound):
    place.symlink_to(place.name)


def device(place, sound):
    place.symlink_to("/dev/zero")


def file(place, sound):
    place.write_text("private")


def pipe_inside(place, sound):
    shutil.copytree(sound, place)
    reference = place / "refs" / "branch.main" / "ref.json"
    reference.unlink()
    os.mkfifo(reference)


def pipe_as_configuration(place, sound):
    shutil.copytree(sound, place)
    (place / "config.yaml").unlink()
    os.mkfifo(place / "config.yaml")


def empty_reference(place, sound):
    shutil.copytree(sound, place)
    (place / "refs" / "branch.main" / "ref.json").write_bytes(b"")


def empty_snapshots(place, sound):
    shutil.copytree(sound, place)
    for snapshot in (place / "snapshots").iterdir():
        snapshot.write_bytes(b"")


def damaged_manifests(place, sound):
    shutil.copytree(sound, place)
    for manifest in (place / "manifests").iterdir():
        manifest.write_bytes(os.urandom(100))


def no_snapshots(place, sound):
    shutil.copytree(sound, place)
    shutil.rmtree(place / "snapshots")
    (place / "snapshots").mkdir()


def nothing_inside(place, sound):
    place.mkdir()


SOUND = {"a-good", "z-good"}
KINDS = [
    unreadable, unreadable_reference, named_pipe, a_socket, circle_of_links, device, file, pipe_inside,
    pipe_as_configuration, empty_reference, empty_snapshots, damaged_manifests, no_snapshots, nothing_inside,
]  # fmt: skip
NAMES = {
    "plain": "odd",
    "long": "n" * 255,
    "control characters": "odd\x1b]0;title\x07\r\n",
    "no UTF-8": os.fsdecode(b"odd\xff\xfe"),
    "markup": "[bold]odd[",
    "picture": ":smile:",
    "option": "-rf",
}


@contextlib.contextmanager
def bound_by_permissions():
    """Let permissions bind this thread, and those that it starts, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, after = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    after[:] = before[:]
    after[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def folder(tmp_path, sound):
    path = tmp_path / "sweeps"
    path.mkdir()
    shutil.copytree(sound, path / "a-good")
    shutil.copytree(sound, path / "z-good")
    yield path
    for each in path.rglob("*"):
        if each.is_dir() and not each.is_symlink():
            each.chmod(0o700)


def check(folder):
    """The two good sweeps are in every list; returns the rows of the service's list."""
    with bound_by_permissions(), serving(folder, LocalBackend()) as (url, _):
        answer = httpx.get(f"{url}/v1/sweeps", trust_env=False, timeout=20)
        metrics = httpx.get(f"{url}/metrics", trust_env=False, timeout=20)
        rows = answer.json()["sweeps"]
        for row in rows:
            for of_it in ("", "/status", "/events", "/spectra") if row["id"] not in SOUND else ():
                single = httpx.get(f"{url}/v1/sweeps/{row['id']}{of_it}", trust_env=False, timeout=20)
                assert single.json() if single.headers["content-type"] == "application/json" else True
                assert "Traceback" not in single.text
                assert str(folder) not in single.text
    assert (answer.status_code, metrics.status_code) == (200, 200)
    assert {row["id"] for row in rows if "error" not in row} >= SOUND
    assert 'pullback_samples{status="good",sweep="a-good"}' in metrics.text
    assert 'pullback_samples{status="good",sweep="z-good"}' in metrics.text
    left_out = []
    with bound_by_permissions():
        sweeps = list_sweeps(folder, left_out.append)
    assert {sweep.location.path.name for sweep in sweeps} >= SOUND
    assert all(isinstance(error, StoreError) for error in left_out)
    return rows


@pytest.mark.timeout(60)
def test_whatever_is_bad_about_sweeps_the_others_are_listed(folder, sound):
    for kind in KINDS:
        kind(folder / f"odd-{kind.__name__}", sound)
    check(folder)


@pytest.mark.timeout(60)
def test_a_sweep_that_may_not_be_looked_into_is_listed_with_why(folder, sound):
    unreadable(folder / "odd", sound)
    rows = {row["id"]: row for row in check(folder)}
    assert "Permission denied" in rows["odd"]["error"]
    with bound_by_permissions(), serving(folder, LocalBackend()) as (url, _):
        assert httpx.get(f"{url}/v1/sweeps/odd", trust_env=False).status_code == 503


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["folder", "sweep", "file"])
def test_whatever_folders_are_called_the_others_are_listed(kind, folder, sound):
    for name in NAMES.values():
        if kind == "folder":
            (folder / name).mkdir()
        elif kind == "file":
            (folder / name).write_text("")
        else:
            shutil.copytree(sound, folder / name)
    check(folder)


def test_a_sweep_of_a_later_version_hides_no_other(folder, sound, monkeypatch):
    monkeypatch.setattr("pullback.store.root.FORMAT", 99)
    create(folder / "later", LAYOUT, {"name": "later"})
    monkeypatch.undo()
    assert "error" in {row["id"]: row for row in check(folder)}["later"]


@pytest.mark.parametrize("error", [OSError(116, "Stale file handle"), OSError(5, "Input/output error")])
def test_a_disk_that_does_not_answer_hides_no_other_sweep(error, folder, sound, monkeypatch):
    shutil.copytree(sound, folder / "odd")
    plain = opening.Path.is_dir

    def is_dir(path):
        if "odd" in path.parts:
            raise error
        return plain(path)

    monkeypatch.setattr(opening.Path, "is_dir", is_dir)
    rows = {row["id"]: row for row in check(folder)}
    assert error.strerror in rows["odd"]["error"]


def test_sweeps_that_vanish_while_they_are_listed_hide_no_other(folder, sound, monkeypatch):
    shutil.copytree(sound, folder / "odd")
    plain = opening.open_tip

    def open_tip(location, snapshot=None):
        if location.path.name == "odd":
            shutil.rmtree(location.path, ignore_errors=True)
        return plain(location, snapshot)

    monkeypatch.setattr("pullback.store.reader.open_tip", open_tip)
    check(folder)


def test_an_error_that_nobody_expected_hides_no_other_sweep(folder, sound, monkeypatch, caplog):
    shutil.copytree(sound, folder / "odd")
    plain = open_sweep

    def opened(address, snapshot=None):
        if str(address).endswith("odd"):
            raise ZeroDivisionError("a secret of the code")
        return plain(address, snapshot)

    caplog.set_level(logging.CRITICAL)
    for module in ("pullback.api.catalog", "pullback.driving.sweep_state"):
        monkeypatch.setattr(f"{module}.open_sweep", opened)
    with serving(folder, LocalBackend()) as (url, _):
        rows = {row["id"]: row for row in httpx.get(f"{url}/v1/sweeps", trust_env=False).json()["sweeps"]}
        assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 200
    assert "secret" not in rows["odd"]["error"]
    assert "error" not in rows["z-good"]


RECORDS = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "no life": b"{}",
    "NaN": b'{"life": "running", "samples_per_second": NaN, "updated": NaN, "began": Infinity, "planned": 1e999}',
    "huge": b'{"life": "running", "pid": %d, "planned": %d, "memory_bytes": 1e308}' % (10**30, 10**300),
    "negative": b'{"life": "submitted", "pid": -5, "planned": -3, "updated": -1e300, "host": "elsewhere"}',
    "future": b'{"life": "running", "pid": 7, "host": "elsewhere", "updated": 1e17}',
    "other kinds": b'{"life": "failed", "message": {}, "shards": [1], "workers": {"a": {}}, "snapshot": 3}',
    "other life": b'{"life": ["running"]}',
    "surrogates": rb'{"life": "running", "host": "\ud800", "shards": {"\udfff": 1}, "message": "\ud800"}',
    "bad bytes": b'{"life": "running", "host": "\xff"}',
    "deep": b'{"life": "running", "shards": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "long": b'{"life": "failed", "message": "' + b"x" * 2**21 + b'"}',
    "an address": b'{"life": "submitted", "submission": "pullback-00-1", "address": "os://x", "updated": 1}',
    "many states": json.dumps({"life": "running", "shards": {str(n): n for n in range(1000)}}).encode(),
}


def test_whatever_records_hold_the_sweeps_are_listed(folder, sound):
    here = json.dumps(socket.gethostname()).encode()
    for number, content in enumerate(RECORDS.values()):
        shutil.copytree(sound, folder / f"of-{number}")
        for name, record in ((f"of-{number}", content), (f"none-{number}", content.replace(b'"elsewhere"', here))):
            (folder / f".{name}.driver.json").write_bytes(record)
    rows = {row["id"]: row for row in check(folder)}
    assert not any("error" in rows[f"of-{number}"] for number in range(len(RECORDS)))


@pytest.mark.timeout(60)
def test_whatever_lies_beside_sweeps_they_are_listed(folder, sound):
    names = []
    for what in ("driver.json", "cancel", "job.yaml", "log", "lock"):
        for kind in (named_pipe, a_socket, circle_of_links, device, nothing_inside, file):
            names.append(f"{what}-{kind.__name__}")
            shutil.copytree(sound, folder / names[-1])
            kind(folder / f".{names[-1]}.{what}", sound)
    rows = {row["id"]: row for row in check(folder)}
    assert not any("error" in rows[name] for name in names)


@pytest.mark.timeout(120)
def test_random_damage_to_random_files_hides_no_other_sweep(folder, sound):
    stream = random.Random(14)
    files = [path.relative_to(sound) for path in sorted(sound.rglob("*")) if path.is_file()]
    until = time.monotonic() + 5
    for number in range(30):
        place = folder / f"odd-{number}"
        shutil.copytree(sound, place)
        chosen = place / stream.choice(files)
        content = bytearray(chosen.read_bytes())
        how = stream.choice(["cut", "flip", "random", "folder", "gone"])
        if how == "flip":
            for _ in range(3):
                content[stream.randrange(len(content))] ^= 1 << stream.randrange(8)
        chosen.write_bytes(content[: stream.randrange(len(content))] if how == "cut" else content)
        if how == "random":
            chosen.write_bytes(stream.randbytes(50))
        if how in ("folder", "gone"):
            chosen.unlink()
        if how == "folder":
            chosen.mkdir()
        if time.monotonic() > until:
            break
    check(folder)
