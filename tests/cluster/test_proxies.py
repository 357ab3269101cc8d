"""The token of a cluster goes to that cluster alone: to no proxy, no password file's host, no redirect's target."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pullback.cluster import submission as jobs
from pullback.errors import SweepError

TOKEN = "a-secret-of-the-cluster"


@contextlib.contextmanager
def listening(status=200, body=b'{"ray_version": "2.60.0", "version": "4"}', **headers):
    """An HTTP server on loopback; yields its address and the requests that came."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            seen.append((self.requestline, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_CONNECT = do_PUT = answer  # noqa: N815

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()


@pytest.fixture
def token(monkeypatch):
    from pullback.cluster.pool import read_token_again

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    read_token_again()
    yield TOKEN
    monkeypatch.undo()
    read_token_again()


VARIABLES = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"]


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_clusters_token_goes_past_every_proxy(monkeypatch, token, variable):
    for name in (*VARIABLES, "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with listening() as (proxy, through), listening() as (cluster, asked):
        monkeypatch.setenv(variable, proxy)
        client = jobs._client(cluster, 5.0)
        client._do_request("POST", "/api/jobs/", json_data={})
    assert through == []
    assert len(asked) >= 2
    assert all(TOKEN in headers["authorization"] for _, headers in asked)


def test_a_name_that_only_a_proxy_could_reach_gets_no_token_through_it(monkeypatch, token):
    with listening() as (proxy, through):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(SweepError), jobs._cluster("http://head.invalid:8265", 5.0):
            pass
    assert through == []


def test_a_password_of_netrc_does_not_take_the_tokens_place(monkeypatch, tmp_path, token):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with listening() as (cluster, asked):
        jobs._client(cluster, 5.0)
    assert asked
    assert all(TOKEN in headers["authorization"] for _, headers in asked)


def test_a_redirect_is_refused_and_its_target_sees_nothing(monkeypatch, token):
    with listening() as (other, seen), listening(307, b"", Location=f"{other}/api/version") as (cluster, _):
        with pytest.raises(SweepError, match="redirects to"), jobs._cluster(cluster, 5.0):
            pass
        assert seen == []
