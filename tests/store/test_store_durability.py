"""What the branch's reference names is on the disk before the reference moves."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from disks import mounted
from pullback.errors import RefusedError
from pullback.store import commits, durability
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.durability import written_chunks
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.shard_writing import write_shard
from stored_sweeps import LAYOUT, commit, filled, record_of


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files and folders that were synced, by the name that they have in the sweep."""
    names: set[str] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        names.add("/".join(path.parts[-2:]))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def cut(sweep: Path, copy: Path, synced: set[str]) -> Path:
    """A copy of a sweep as the worst power cut leaves it: every file that was not synced is empty."""
    shutil.copytree(sweep, copy)
    for file in copy.rglob("*"):
        if file.is_file() and "/".join(file.parts[-2:]) not in synced:
            file.write_bytes(b"")
    return copy


def test_a_power_cut_after_any_commit_loses_nothing_of_it(tmp_path: Path, synced: set[str]) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {"name": "sweep"})
    for shard in range(3):
        commit(store, record_of(LAYOUT, shard))
        copy = cut(store.path, tmp_path / f"cut{shard}", synced)
        assert open_sweep(copy).snapshot == store.snapshot
        assert open_sweep(copy).committed_shards == list(range(shard + 1))
        assert audit(copy).damages == ()


def test_the_branch_does_not_move_before_all_of_a_commit_is_on_the_disk(
    tmp_path: Path, synced: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    copies: list[Path] = []
    sync = commits.sync_reference

    def moved(folder: Path, branch: str) -> None:  # called once the branch has moved
        copies.append(cut(store.path, tmp_path / "cut", {*synced, "branch.main/ref.json"}))
        sync(folder, branch)

    monkeypatch.setattr(commits, "sync_reference", moved)
    commit(store, record_of(LAYOUT, 1), record_of(LAYOUT, 2))
    (copy,) = copies
    assert open_sweep(copy).committed_shards == [0, 1, 2]
    assert audit(copy).damages == ()


def test_a_sweep_on_a_scratch_disk_is_not_synced(tmp_path: Path, synced: set[str]) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {"name": "sweep"})
    store.durable = False
    synced.clear()
    commit(store, record_of(LAYOUT, 0))
    assert synced == set()
    assert open_sweep(store.path).committed_shards == [0]


def test_a_worker_finds_the_files_that_it_wrote(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {"name": "sweep"})
    before = {*(store.path / "chunks").iterdir()} if (store.path / "chunks").exists() else set()
    result = write_shard(store.fork(), record_of(LAYOUT, 0))
    written = {*(store.path / "chunks").iterdir()} - before
    assert len(written) == 2, "eigenvectors and the sum of metrics have files of their own"
    assert {*written_chunks(result, store.path)} == written


def test_where_the_files_of_a_worker_are_not_found_the_whole_file_system_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    store = create(tmp_path / "sweep", LAYOUT, {"name": "sweep"})
    store.fork()
    monkeypatch.setattr(durability, "written_chunks", lambda session, folder: [])
    monkeypatch.setattr(durability, "sync_filesystem", folders.append)
    commit(store, record_of(LAYOUT, 0))
    assert folders == [store.path.resolve()]


def test_a_disk_that_fails_to_sync_refuses_the_commit_which_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    store.merge(1, write_shard(store.fork(), record_of(LAYOUT, 1)))

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RefusedError):
            store.commit("shards")
        with pytest.raises(RefusedError):
            write_shard(store.fork(), record_of(LAYOUT, 2))
    assert open_sweep(store.path).committed_shards == [0]
    store.commit("shards")
    assert open_sweep(store.path).committed_shards == [0, 1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file with an ext4 file system, and where it is mounted."""
    with mounted(tmp_path) as found:
        yield found


def test_a_power_cut_of_a_real_file_system_leaves_every_commit_that_was_made(
    disk: tuple[Path, Path], tmp_path: Path
) -> None:
    backing, place = disk
    store = create(place / "sweep", LAYOUT, {"name": "sweep"})
    images = []
    for shard in range(3):
        commit(store, record_of(LAYOUT, shard))
        images.append(tmp_path / f"image{shard}")  # what the device holds, without what is in memory only
        subprocess.run(["cp", "--sparse=always", backing, images[-1]], check=True)
        time.sleep(0.05)
    for shard, image in enumerate(images):
        after = tmp_path / f"after{shard}"
        after.mkdir()
        subprocess.run(["mount", "-o", "loop", image, after], check=True)
        try:
            sweep = open_sweep(after / "sweep")
            assert sweep.committed_shards == list(range(shard + 1))
            assert audit(after / "sweep").damages == ()
            np.testing.assert_array_equal(sweep.values("latent", slice(0, 4)), record_of(LAYOUT, 0).latent)
            again = SweepStore.open(after / "sweep")
            commit(again, *(record_of(LAYOUT, other) for other in again.pending_shards()))
            assert open_sweep(after / "sweep").status().pending == 0
        finally:
            subprocess.run(["umount", after], check=True)
