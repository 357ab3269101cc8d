"""Connections that send nothing, or very slowly, keep nobody out; nothing that is written down holds an answer up."""

import contextlib
import errno
import json
import os
import socket
import time

import httpx
import pytest
from served_sweeps import FakeBackend, serving

from pullback.api import connections, observe, tokens
from pullback.api.observe import Observer
from pullback.errors import PullbackError

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def url(folder, monkeypatch):
    monkeypatch.setattr(connections, "MOST", 40)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    with serving(folder, FakeBackend(), body_seconds=1.0) as (url, _):
        yield url


def connect(url, sent=b""):
    host, port = url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=10)
    if sent:
        made.sendall(sent)
    return made


def is_served(url):
    with connect(url, REQUEST) as asking:
        return asking.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: 127",
        b"POST /v1/sweeps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["silent", "half of the headers", "half of a body"],
)
def test_three_hundred_connections_that_wait_keep_nobody_out(url, sent):
    waiting = [connect(url, sent) for _ in range(300)]
    try:
        for _ in range(3):
            assert is_served(url)
    finally:
        for each in waiting:
            each.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", REQUEST])
def test_a_connection_without_a_request_is_closed(url, sent):
    with connect(url, sent) as made:
        end = time.monotonic() + 10
        while made.recv(1000):
            assert time.monotonic() < end


def test_headers_that_come_byte_by_byte_do_not_hold_a_connection(url):
    with connect(url, b"GET / HTTP/1.1\r\nX: ") as made:
        end = time.monotonic() + 5
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                made.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() < end


def test_a_body_that_comes_byte_by_byte_is_given_up(url):
    with connect(url, b"POST /v1/sweeps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n") as made:
        made.settimeout(0.05)
        answer, end = b"", time.monotonic() + 10
        while not answer and time.monotonic() < end:
            made.sendall(b" ")
            try:
                answer = made.recv(1000)
            except TimeoutError:
                continue
        assert b" 408 " in answer


def test_requests_on_one_connection_are_answered_one_after_the_other(url):
    with httpx.Client(base_url=url, trust_env=False) as client:
        for _ in range(5):
            assert client.get("/healthz").status_code == 200
            time.sleep(0.3)  # together longer than the time for one request's headers
    with connect(url, REQUEST * 3) as made:
        time.sleep(0.5)
        assert made.recv(10_000).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sweeps", {"GET", "HEAD", "POST"}),
        ("/v1/sweeps/mine", {"GET", "HEAD"}),
        ("/v1/sweeps/mine/analysis", {"GET", "HEAD", "POST"}),
        ("/v1/sweeps/mine/cancel", {"POST"}),
        ("/metrics", {"GET", "HEAD"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_a_method_that_is_not_allowed_is_answered_with_those_that_are(ask, path, methods, method):
    answer = ask.request(method, path)
    assert answer.status_code == 405
    assert {each.strip() for each in answer.headers["allow"].split(",")} == methods


class FullDisk:
    def __init__(self, after=0):
        self.left = after

    def __call__(self, descriptor, content):
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        return os.write(descriptor, content[:10])


def until(holds):
    """Wait: an answer is written down after it was sent."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_disk_under_the_audit_log_holds_nothing_up_and_floods_nothing(folder, tmp_path, monkeypatch, caplog):
    audit = tmp_path / "audit.log"
    with serving(folder, FakeBackend(), audit=audit) as (url, app), httpx.Client(base_url=url, trust_env=False) as ask:
        lost = app.state.service.observer._lost._value
        assert ask.get("/healthz").status_code == 200
        until(lambda: audit.read_text().endswith("\n"))
        monkeypatch.setattr(observe, "os", type("os", (), {**vars(os), "write": staticmethod(FullDisk(1))}))
        for _ in range(20):
            assert ask.get("/healthz").status_code == 200
        until(lambda: lost.get() == 20)
        monkeypatch.undo()
        assert "pullback_audit_lines_lost_total 20.0" in ask.get("/metrics").text
        assert ask.get("/v1/sweeps").status_code == 200
        until(lambda: "/v1/sweeps" in audit.read_text())
    assert len([record for record in caplog.records if "audit log" in record.getMessage()]) == 1
    lines = audit.read_text().splitlines()
    assert json.loads(lines[0])["path"] == "/healthz"
    assert json.loads(lines[-1])["path"] == "/v1/sweeps", "a torn line spoils no other"


@pytest.mark.timeout(20)
def test_an_audit_log_that_would_block_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PullbackError):
        Observer(tmp_path / "pipe")
    with pytest.raises(PullbackError):
        Observer(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("becomes", ["named pipe", "folder", "link to a device", "long", "deep", "gone", "empty"])
def test_a_token_file_that_becomes_unfit_lets_nobody_in_and_blocks_nothing(folder, tmp_path, caplog, becomes):
    path = tmp_path / "tokens.json"
    token = tokens.add_token(path, "anna", "read")
    headers = {"Authorization": f"Bearer {token}"}
    with serving(folder, FakeBackend(), tokens.TokenFile(path)) as (url, _):
        assert httpx.get(f"{url}/v1/sweeps", headers=headers, trust_env=False).status_code == 200
        kept = path.read_bytes()
        path.unlink()
        if becomes == "named pipe":
            os.mkfifo(path, 0o600)
        elif becomes == "folder":
            path.mkdir()
        elif becomes == "link to a device":
            path.symlink_to("/dev/zero")
        elif becomes != "gone":
            path.write_bytes({"long": b" " * 2**21, "deep": b"[" * 100_000, "empty": b""}[becomes])
            path.chmod(0o600)
        for _ in range(10):
            assert httpx.get(f"{url}/v1/sweeps", headers=headers, trust_env=False, timeout=10).status_code == 503
            assert httpx.get(f"{url}/healthz", trust_env=False, timeout=10).status_code == 200
        assert len(caplog.records) <= 1
        path.rmdir() if becomes == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(kept)
        path.chmod(0o600)
        assert httpx.get(f"{url}/v1/sweeps", headers=headers, trust_env=False).status_code == 200
