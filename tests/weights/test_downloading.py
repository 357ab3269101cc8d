"""Downloads are resumed, checked and put in place in one step; licences are asked for once."""

import contextlib
import fcntl
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pullback.errors import WeightsError
from pullback.weights import pretrained_biggan
from pullback.weights.downloading import download
from pullback.weights.fetching import fetch
from pullback.weights.manifest import Variant, Weight, locate

CONTENT = bytes(range(256)) * 4000


class Server:
    """An HTTP server of one file on loopback, which may break off or answer otherwise."""

    def __init__(self):
        outer = self
        self.breaks_after, self.status, self.ranges, self.requests = None, None, True, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.requests.append(asked)
                if outer.status is not None:
                    self.send_error(outer.status)
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.ranges else 0
                if start >= len(CONTENT):
                    self.send_error(416)
                    return
                body = CONTENT[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body if outer.breaks_after is None else body[: outer.breaks_after])

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file.bin"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_a_file_is_downloaded_with_its_progress(tmp_path, server):
    seen = []
    assert download(server.url, tmp_path / "a" / "file.bin", DIGEST, lambda *each: seen.append(each)) == DIGEST
    assert (tmp_path / "a" / "file.bin").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on_where_it_was(tmp_path, server, ranges):
    server.breaks_after, target = 100_000, tmp_path / "file.bin"
    with pytest.raises(WeightsError, match="kept"):
        download(server.url, target, DIGEST)
    assert not target.exists()
    server.breaks_after, server.ranges = None, ranges
    assert download(server.url, target, DIGEST) == DIGEST
    assert server.requests[1].startswith("bytes=")
    assert target.read_bytes() == CONTENT


def test_a_complete_download_that_was_not_put_in_place_is_fetched_again(tmp_path, server):
    (tmp_path / ".file.bin.partial").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "file.bin", DIGEST) == DIGEST


def test_other_content_is_removed(tmp_path, server):
    with pytest.raises(WeightsError, match="SHA-256"):
        download(server.url, tmp_path / "file.bin", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_refuses_and_one_that_is_not_there_are_distinguished(tmp_path, server):
    server.status = 403
    with pytest.raises(WeightsError, match="403"):
        download(server.url, tmp_path / "file.bin", "")
    with pytest.raises(WeightsError, match=r"PULLBACK_WEIGHTS|copy"):
        download("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", "")


def test_addresses_that_are_not_https_and_an_offline_hub_are_refused(tmp_path, monkeypatch):
    for url in ("file:///etc/passwd", "ftp://x/y", "http://example.com/x"):
        with pytest.raises(WeightsError, match="https"):
            download(url, tmp_path / "x", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        download("https://huggingface.co/a/b/resolve/main/x", tmp_path / "x", "")


def test_two_processes_do_not_write_one_file(tmp_path, server):
    with (tmp_path / ".file.bin.partial").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process"):
            download(server.url, tmp_path / "file.bin", DIGEST)


def published(url, **changes):
    variant = {"file": "net/file.bin", "url": url, "beside": {"net/config.json": url}}
    entry = {"what": "made up", "licence": "CC BY-NC", "publisher": "them", "noncommercial": True, **changes}
    return Weight(variants=(Variant(**variant),), **entry)


def test_a_noncommercial_licence_is_asked_for_once(weight_places, set_manifest, server):
    set_manifest(one=published(server.url), two=published(server.url), free=published(server.url, noncommercial=False))
    with pytest.raises(WeightsError, match="--accept-licence"):
        fetch(["one"])
    assert server.requests == []
    lines = []
    found = fetch(["one"], report=lines.append, accept_licence=True)["one"]
    assert any("CC BY-NC" in line for line in lines)
    assert found.with_name("config.json").read_bytes() == CONTENT
    assert locate("one") == (found, DIGEST)
    found.unlink()
    assert fetch(["two"])["two"] == found
    found.unlink()
    assert fetch(["free"])["free"] == found


def test_the_hash_of_the_first_download_holds_from_then_on(weight_places, set_manifest, server):
    set_manifest(one=published(server.url, noncommercial=False))
    found = fetch(["one"])["one"]
    found.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="damaged"):
        locate("one")


def test_what_only_a_person_can_download_says_where(weight_places, set_manifest):
    by_hand = Weight(
        what="made up",
        licence="MIT",
        publisher="them",
        page="https://example.org/net",
        variants=(Variant(file="n.pt"),),
    )
    set_manifest(one=by_hand)
    with pytest.raises(WeightsError, match=r"https://example\.org/net.*n\.pt"):
        fetch(["one"])
    (weight_places["own"] / "n.pt").write_bytes(b"x")
    assert fetch(["one"])["one"] == weight_places["own"] / "n.pt"


def test_a_published_biggan_is_fetched_through_its_package(weight_places, set_manifest, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pretrained_biggan, "published", lambda name: asked.append(name) or weight_places["cache"] / "weights" / name
    )
    variant = Variant(file="b/pytorch_model.bin", biggan="biggan-deep-128", url="https://example.org/b.bin")
    set_manifest(big=Weight(what="x", licence="y", variants=(variant,)))
    assert fetch(["big"])["big"].name == "pytorch_model.bin"
    assert asked == ["biggan-deep-128"]
