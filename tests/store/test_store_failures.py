"""What passes by itself is no damage: reading reports it, and a repair stops and changes nothing."""

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

from pullback.errors import StoreError, UnavailableError
from pullback.store.audit import Auditor, audit
from pullback.store.creation import create
from pullback.store.failures import is_damage
from pullback.store.location import locate
from pullback.store.maintenance import repair
from pullback.store.opening import has_chunk
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import ArraySchema, Layout
from stored_sweeps import LAYOUT, commit, filled, flip_byte, record_of


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return filled(tmp_path / "sweep").path


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def icechunk_error(message: str) -> icechunk.IcechunkError:
    """As Icechunk words an error, with the names of calls and settings that it adds."""
    calls = "  | context:\n  |    0: icechunk::asset_manager::fetch_manifest with not found checksum invalid magic"
    return icechunk.IcechunkError(f"  x {message}\n  | \n{calls}\n  | \n  |-> {message}\n  `-> {message}\n")


PASSING = {
    **{
        errno.errorcode[number]: OSError(number, os.strerror(number))
        for number in (
            errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EINTR,
            errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV, errno.EREMOTEIO, errno.ELOOP,
        )
    },
    **{
        f"icechunk {number}": icechunk_error(
            f"object store error Generic LocalFileSystem error: Unable to open file /x/chunks/A: no (os error {number})"
        )
        for number in (5, 12, 13, 23, 24, 110, 116)
    },
    "unmounted": icechunk_error("object store error Object at location /gone/chunks/A not found: None (os error 2)"),
    "timeout": icechunk_error("object store error Generic S3 error: operation timed out"),
    "throttled": icechunk_error('service error: code: "SlowDown", message: "Please reduce your request rate."'),
    "500": icechunk_error('service error: code: "InternalError", message: "We encountered an internal error."'),
    "503": icechunk_error("error getting object from object store: unhandled error: 503 Service Unavailable"),
    "credentials": icechunk_error('service error: code: "ExpiredToken", message: "The token has expired."'),
    "no bucket": icechunk_error('service error: code: "NoSuchBucket", message: "The bucket does not exist: not found"'),
    "unknown": icechunk_error("something that nobody has seen yet"),
    "memory": MemoryError(),
    "threads": RuntimeError("can't start new thread"),
    "codec memory": RuntimeError("Zstd decompression error: Allocation error : not enough memory"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "where"), zip(PASSING, itertools.cycle(["values", "references"]), strict=False))
def test_a_repair_under_passing_trouble_changes_nothing(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    before, error = contents(sweep), PASSING[name]

    def read(self: Auditor, schema: ArraySchema, first: int, last: int, present: Container[int] | None = None) -> Any:
        if schema.name == "eigenvector" and first <= 1 <= last:
            raise error
        return original_read(self, schema, first, last, present)

    def has(self: Auditor, schema: ArraySchema, shard: int) -> bool:
        if schema.name == "eigenvector" and shard == 1:
            raise error
        return original_has(self, schema, shard)

    original_read, original_has = Auditor.read, Auditor.has
    monkeypatch.setattr(Auditor, *(("read", read) if where == "values" else ("has", has)))
    with pytest.raises(UnavailableError):
        repair(sweep)
    assert contents(sweep) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_reading_calls_passing_trouble_no_damage(sweep: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = open_sweep(sweep)

    def fail(*_: object) -> None:
        raise icechunk_error(f"session error: no (os error {number})")

    monkeypatch.setattr("pullback.store.chunks.has_chunk", fail)
    with pytest.raises(UnavailableError) as caught:
        opened.mean_metric()
    assert "--repair" not in str(caught.value)


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_listing_chunks_calls_passing_trouble_no_damage(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    opened = open_sweep(sweep)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("pullback.store.chunks._FEW", 0)
    monkeypatch.setattr("pullback.store.chunks._stored_chunks", fail)
    monkeypatch.setattr("pullback.store.chunks.has_chunk", fail)
    with pytest.raises(UnavailableError):
        opened.mean_metric()


def test_looking_for_lost_statuses_calls_passing_trouble_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_sweep(filled(tmp_path / "sweep", (0, 2)).path)

    def fail(session: icechunk.Session, array: "zarr.Array[Any]", chunk: int) -> bool:
        if array.basename == "trace":
            raise icechunk_error("object store error Generic S3 error: operation timed out")
        return has_chunk(session, array, chunk)

    monkeypatch.setattr("pullback.store.chunks.has_chunk", fail)
    with pytest.raises(UnavailableError):
        opened.status()


@pytest.fixture
def long_sweep(tmp_path: Path) -> Path:
    """So many shards that their chunks are fetched together."""
    return filled(tmp_path / "long", tuple(range(10)), replace(LAYOUT, samples=40)).path


@pytest.mark.parametrize("name", ["eigenvector", "metric_sum"])
def test_chunks_that_are_fetched_together_and_cannot_be_opened_are_no_damage(long_sweep: Path, name: str) -> None:
    opened = open_sweep(long_sweep)
    for file in (long_sweep / "chunks").iterdir():
        file.unlink()
        file.symlink_to(file.name)  # ELOOP, even for root
    before = {file.name for file in long_sweep.rglob("*")}
    with pytest.raises(UnavailableError):
        opened.values(name, slice(None))
    with pytest.raises(UnavailableError):
        repair(long_sweep)
    assert {file.name for file in long_sweep.rglob("*")} == before


@pytest.mark.parametrize("name", [*PASSING][::4])
def test_passing_trouble_with_one_of_many_chunks_is_no_damage(
    long_sweep: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    opened, before, error = open_sweep(long_sweep), contents(long_sweep), PASSING[name]

    async def get_together(*_: object) -> list[None]:
        raise TypeError("as Icechunk does for a chunk that it leaves out")

    async def get(self: icechunk.IcechunkStore, key: str, *rest: Any, **more: Any) -> Any:
        if key == "eigenvector/c/5/0/0":
            raise error
        return await original(self, key, *rest, **more)

    original = icechunk.IcechunkStore.get
    monkeypatch.setattr(icechunk.IcechunkStore, "get_partial_values", get_together)
    monkeypatch.setattr(icechunk.IcechunkStore, "get", get)
    with pytest.raises(UnavailableError):
        opened.values("eigenvector", slice(None))
    with pytest.raises(UnavailableError):
        repair(long_sweep)
    assert contents(long_sweep) == before


def test_a_chunk_that_is_gone_among_many_is_damage(long_sweep: Path) -> None:
    opened = open_sweep(long_sweep)
    for file in (long_sweep / "chunks").iterdir():
        file.unlink()
    with pytest.raises(StoreError) as caught:
        opened.values("eigenvector", slice(None))
    assert not isinstance(caught.value, UnavailableError)


def in_a_child(sweep: Path, preparation: str) -> subprocess.CompletedProcess[str]:
    """Repair a sweep in a process that is first limited in some way."""
    code = f"""
import os, resource, sys
from pathlib import Path
import icechunk, zarr, numcodecs, torch
from pullback.store.maintenance import repair
from pullback.errors import UnavailableError, StoreError
from pullback.store import maintenance
import pullback.store.audit as audit
opened = audit.Auditor.__init__
def limited(self, *args):
    opened(self, *args)
{preparation}
audit.Auditor.__init__ = limited
try:
    print("lost", repair({str(sweep)!r}).lost_shards)
except StoreError as error:
    print(type(error).__name__)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_too_few_file_descriptors_are_no_damage(sweep: Path) -> None:
    before = contents(sweep)
    found = in_a_child(
        sweep,
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1,) * 2)",
    )
    assert found.stdout.split() == ["UnavailableError"], found.stderr
    assert contents(sweep) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else, and nobody else reads everything")
@pytest.mark.parametrize("what", ["chunks", "manifests"])
def test_files_that_may_not_be_read_are_no_damage(sweep: Path, what: str) -> None:
    shutil.copytree(sweep, sweep.with_name("copy"))
    for file in (sweep / what).iterdir():
        file.chmod(0)
    for folder in [sweep, *sweep.parents]:
        if folder.stat().st_uid == os.geteuid() and "pytest" in str(folder):
            folder.chmod(0o777)
    found = in_a_child(sweep, "    os.seteuid(65534)")
    assert found.stdout.split() == ["UnavailableError"], found.stderr
    assert contents(sweep) == contents(sweep.with_name("copy"))


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "zeros", "flipped"])
@pytest.mark.parametrize("what", ["chunks", "manifests"])
def test_what_is_read_and_wrong_or_surely_absent_is_damage(sweep: Path, what: str, how: str) -> None:
    for file in (sweep / what).iterdir():
        content = file.read_bytes()
        if how == "missing":
            file.unlink()
        elif how == "flipped":
            flip_byte(file)
        else:
            file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content))}[how])
    assert audit(sweep).lost_shards == [0, 1, 2]


def test_a_storage_that_vanishes_under_an_audit_holds_no_damage(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Auditor.__init__

    def unmount(self: Auditor, *args: Any) -> None:
        opened(self, *args)
        for folder in sweep.iterdir():
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()

    monkeypatch.setattr(Auditor, "__init__", unmount)
    with pytest.raises(UnavailableError):
        audit(sweep)


def test_what_proves_damage_is_distinguished_from_what_does_not(tmp_path: Path) -> None:
    place = locate(tmp_path)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "A").touch()
    absent = f"object store error Object at location {tmp_path}/chunks/B not found: No such file (os error 2)"
    assert is_damage(icechunk_error(absent), place)
    assert is_damage(ValueError("Stored and computed checksum do not match"), place)
    assert is_damage(RuntimeError("Zstd decompression error: Data corruption detected"), place)
    s3 = locate("s3://damage-not-found/sweep")
    assert is_damage(icechunk_error('service error: code: "NoSuchKey", message: "no such key"'), s3)
    assert not is_damage(icechunk_error("service error: s3://damage-not-found/sweep does not answer"), s3)


@pytest.mark.parametrize("error", [TypeError("f() got an argument"), KeyError("name"), IndexError("4"),
                                   AssertionError(), ValueError("not enough values to unpack")], ids=repr)  # fmt: skip
def test_a_mistake_in_code_is_no_damage(sweep: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert not is_damage(error, locate(sweep))

    def mistaken(*_: object, **__: object) -> None:
        raise error

    before = SweepStore.open(sweep).pending_shards()
    monkeypatch.setattr(Auditor, "read", mistaken)
    with pytest.raises(UnavailableError):
        repair(sweep)
    assert SweepStore.open(sweep).pending_shards() == before


def test_every_way_to_damage_a_chunk_is_known_as_damage_and_never_returned(tmp_path: Path) -> None:
    layout = Layout(samples=960, latent_dim=4, components=4, shard_size=96)
    store = create(tmp_path / "sweep", layout, {"name": "sweep"})
    commit(store, *(record_of(layout, shard) for shard in range(10)))
    clean = open_sweep(tmp_path / "sweep").dataset(only_good=False).load()
    files = sorted((tmp_path / "sweep" / "chunks").iterdir())
    rng, unknown = random.Random(5), []
    for attempt in range(40):
        path = rng.choice(files)
        whole = path.read_bytes()
        cut = rng.randrange(len(whole))
        wrong = [
            b"", whole[:cut], whole[cut:], bytes(len(whole)), rng.randbytes(len(whole)),
            whole[:cut] + bytes([whole[cut] ^ 1 << rng.randrange(8)]) + whole[cut + 1 :],
        ][attempt % 6]  # fmt: skip
        path.write_bytes(wrong)
        sweep = open_sweep(tmp_path / "sweep")
        for name, variable in clean.variables.items():
            for samples in (slice(None), slice(3, 4)):
                try:
                    found = sweep.values(str(name), samples)
                except StoreError as error:
                    unknown += [error] if isinstance(error, UnavailableError) else []
                else:
                    np.testing.assert_array_equal(found, variable.values[samples])
        path.write_bytes(whole)
    assert unknown == []


@pytest.mark.parametrize("folder", ["chunks", "manifests", "transactions", "snapshots"])
def test_a_named_pipe_in_place_of_a_file_is_refused_at_once(sweep: Path, folder: str) -> None:
    path = next((sweep / folder).iterdir())
    path.unlink()
    os.mkfifo(path)
    code = (
        "import sys; from pullback.errors import StoreError; from pullback.store.reader import open_sweep\n"
        "from pullback.store.audit import audit\n"
        "for read in (lambda: open_sweep(sys.argv[1]).dataset().load(), lambda: audit(sys.argv[1])):\n"
        "    try: read()\n"
        "    except StoreError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sweep)], capture_output=True, text=True, timeout=60)
    assert done.stdout.count(str(path)) == 2, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "Generic GCS error: Wanted range starting at 1032, but object was only 100 bytes long",
        "Requested range was invalid: the object has 100 bytes",
    ],
)
def test_an_object_that_is_shorter_than_its_reference_says_is_damage(text: str, sweep: Path) -> None:
    assert is_damage(icechunk_error(f"object store error {text}"), locate(str(sweep)))
