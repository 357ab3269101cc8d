import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pullback.errors import StoreError
from pullback.store import folders
from pullback.store.folders import local_path, whole_file, whole_folder


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with whole_folder(path) as temporary:
        (temporary / "file").write_text("whole")
        assert not path.exists()
    assert (path / "file").read_text() == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_not_even_the_parents(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "a" / "b" / "c") as temporary:
            (temporary / "file").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_parents_that_others_use(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "a" / "b"):
            (tmp_path / "a" / "other").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a" / "other").is_dir()


def test_a_taken_path_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(StoreError, match="exists already"), whole_folder(path):
            pytest.fail("nothing may be built")
    assert (tmp_path / "mine").read_text() == "precious"


def take(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("precious")


def test_a_path_taken_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(StoreError, match="exists already"), whole_folder(path):
        take(path)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["folder", "mine"]


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"), whole_folder(tmp_path / "file" / "sweep"):
        pytest.fail("nothing can be built")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with whole_folder(path, replace=True) as temporary:
            (temporary / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from pullback.store.folders import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "sweep"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert len(list(tmp_path.glob(".sweep.new-*"))) == 1, "the process was killed while it built the folder"
    assert not path.exists()
    with whole_folder(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_living_process_builds_is_not_swept(tmp_path: Path) -> None:
    host = folders._owner().rpartition("-")[0]
    living = tmp_path / f".sweep.new-{host}-{os.getppid()}-01234567"
    elsewhere = tmp_path / ".sweep.new-otherhost-1-01234567"
    living.mkdir()
    elsewhere.mkdir()
    with whole_folder(tmp_path / "sweep") as first:
        with pytest.raises(StoreError, match="exists already"), whole_folder(tmp_path / "sweep"):
            take(tmp_path / "sweep")
        assert first.is_dir(), "not swept by another thread of this process"
        shutil.rmtree(tmp_path / "sweep")
    assert living.is_dir()
    assert elsewhere.is_dir()


@pytest.mark.parametrize("url", ["s3://bucket/sweep", "gs://bucket/sweep", Path("s3://bucket/sweep"), "https://h/x"])
def test_a_url_is_refused(url: str | Path) -> None:
    with pytest.raises(StoreError, match="folder of this machine only"):
        local_path(url)


def test_a_home_folder_is_expanded() -> None:
    assert local_path("~/sweeps") == Path.home() / "sweeps"


def test_a_folder_and_a_file_are_on_the_disk_before_they_have_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        order.append(f"to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", renamed)
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "inside").write_text("something")
    with whole_file(tmp_path / "file") as file:
        file.write_text("something")
    named = order.index("to folder")
    assert order.index("inside") < named < order.index(tmp_path.name, named)
    assert any(name.startswith(".file") for name in order[named : order.index("to file")])
