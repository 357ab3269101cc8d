"""Who is let in: tokens on every route and method, this machine only without, hostile ids, bodies and clients."""

import json
import socket
import threading

import httpx
import pytest
from served_sweeps import LAYOUT, FakeBackend, serving
from starlette.routing import Route

from pullback.api.server import tokens_for
from pullback.api.tokens import TokenFile, add_token, remove_token
from pullback.driving.sweep_state import SweepState
from pullback.errors import PullbackError
from pullback.store.creation import create

OPEN = {("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/login"), ("HEAD", "/login"), ("POST", "/login")}
"""What needs no token."""
LOGOUT = ("POST", "/logout")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"]
READING = {"GET", "HEAD", "OPTIONS"}
ELSEWHERE = [
    "/",
    "/v1",
    "/v1/sweeps/",
    "/nowhere",
    "/static/../v1/sweeps",
    "/docs/oauth2-redirect",
    "//v1/sweeps",
    "/static-offline-docs/swagger-ui.css",
]


@pytest.fixture(scope="module")
def guarded(folder, tmp_path_factory):
    """The address and app of a service that needs tokens, with its tokens, its backend and its audit log."""
    place = tmp_path_factory.mktemp("tokens")
    tokens = {name: add_token(place / "tokens.json", name, scope) for name, scope in (("r", "read"), ("s", "submit"))}
    backend = FakeBackend(states={"mine": SweepState("running", "mine")})
    with serving(folder, backend, TokenFile(place / "tokens.json"), place / "audit.jsonl") as (url, app):
        yield url, app, tokens, backend, place / "audit.jsonl"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def every_path(app):
    """The path of each route, with a real id in it, and of what is no route."""
    found, queue = [], list(app.routes)
    while queue:
        route = queue.pop()
        if getattr(route, "path", None) and (isinstance(route, Route) or hasattr(route, "methods")):
            found.append(route.path.replace("{id}", "mine"))
        queue += getattr(getattr(route, "original_router", None), "routes", [])
    return [*found, *ELSEWHERE]


def test_the_paths_of_these_tests_are_all_there_are(guarded):
    _, app, _, _, _ = guarded
    described = {path.replace("{id}", "mine") for path in app.openapi()["paths"]}
    assert len(described) >= 12
    assert described | {"/docs", "/openapi.json"} <= set(every_path(app))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_answered_without_a_token(guarded, method):
    url, app, tokens, backend, _ = guarded
    wrong = [{}, bearer("wrong"), {"Authorization": f"Basic {tokens['s']}"}, {"Authorization": tokens["s"]}]
    with httpx.Client(base_url=url, trust_env=False) as ask:
        for number, path in enumerate(every_path(app)):
            if (method, path) in OPEN | {LOGOUT}:
                continue
            # The token is checked before the path, so every kind of wrong token meets every path of two methods only.
            for headers in wrong if method in ("GET", "POST") else [wrong[number % len(wrong)]]:
                answer = ask.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert "mine" not in answer.text
    assert backend.submitted == {}
    assert backend.cancelled == []


def test_two_tokens_at_once_are_none(guarded):
    url, _, tokens, _, _ = guarded
    headers = [("Authorization", f"Bearer {tokens['r']}"), ("Authorization", "Bearer wrong")]
    assert httpx.get(f"{url}/v1/sweeps", headers=headers, trust_env=False).status_code == 401


@pytest.mark.parametrize("method", [method for method in METHODS if method not in READING])
def test_a_token_that_may_read_cannot_change_anything(guarded, method):
    url, app, tokens, backend, _ = guarded
    with httpx.Client(base_url=url, headers=bearer(tokens["r"]), trust_env=False) as ask:
        for path in every_path(app):
            if (method, path) not in OPEN | {LOGOUT}:
                assert ask.request(method, path).status_code == 403, (method, path)
    assert backend.submitted == {}
    assert backend.cancelled == []


def test_a_token_that_may_read_reads_and_one_that_may_submit_does_both(guarded):
    url, _, tokens, backend, _ = guarded
    paths = ["/healthz", "/metrics", "/docs", "/openapi.json", "/v1/sweeps", "/v1/sweeps/mine/spectra"]
    for token in tokens.values():
        found = [httpx.get(url + path, headers=bearer(token), trust_env=False).status_code for path in paths]
        assert found == [200] * len(paths)
    answer = httpx.post(f"{url}/v1/sweeps/mine/cancel", headers=bearer(tokens["s"]), trust_env=False)
    assert (answer.status_code, answer.json()) == (202, {"id": "mine", "cancelling": True})
    assert len(backend.cancelled) == 1
    backend.cancelled.clear()


def test_the_head_of_an_answer_is_that_of_the_whole_one(guarded):
    url, _, tokens, _, audit = guarded
    with httpx.Client(base_url=url, headers=bearer(tokens["r"]), trust_env=False) as ask:
        for path in ("/healthz", "/docs", "/v1/sweeps/mine", "/v1/sweeps/mine/spectra?format=npy", "/nowhere"):
            head, whole = ask.head(path), ask.get(path)
            assert (head.status_code, head.content) == (whole.status_code, b""), path
            for name in ("Content-Type", "Content-Length", "ETag"):
                assert head.headers.get(name) == whole.headers.get(name), (path, name)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert {"HEAD", "GET"} <= {line["method"] for line in lines if line["path"] == "/docs"}


def test_the_description_says_that_a_token_is_needed(guarded, service):
    url, _, tokens, _, _ = guarded
    described = httpx.get(f"{url}/openapi.json", headers=bearer(tokens["r"]), trust_env=False).json()
    assert [each["scheme"] for each in described["components"]["securitySchemes"].values()] == ["bearer"]
    operations = {(path, name): each for path, all_ in described["paths"].items() for name, each in all_.items()}
    assert [path for path, operation in operations.items() if not operation.get("security")] == [("/healthz", "get")]
    assert "securitySchemes" not in httpx.get(f"{service}/openapi.json", trust_env=False).json()["components"]


def test_with_tokens_any_host_name_is_served(guarded):
    url, _, tokens, _, _ = guarded
    headers = {**bearer(tokens["r"]), "Host": "sweeps.example.org"}
    assert httpx.get(f"{url}/v1/sweeps", headers=headers, trust_env=False).status_code == 200


def test_the_audit_log_has_every_request_and_no_token(guarded):
    url, _, tokens, _, audit = guarded
    before = len(audit.read_text().splitlines())
    httpx.get(f"{url}/v1/sweeps?after=secret", headers=bearer(tokens["r"]), trust_env=False)
    httpx.get(f"{url}/v1/sweeps", headers=bearer("wrong"), trust_env=False)
    httpx.post(f"{url}/v1/sweeps", headers=bearer(tokens["r"]), trust_env=False)
    httpx.get(f"{url}/healthz", headers=bearer(tokens["r"]), trust_env=False)  # the lines before it are written
    lines = [json.loads(line) for line in audit.read_text().splitlines()[before:]][:3]
    assert [(line["token"], line["method"], line["path"], line["status"]) for line in lines] == [
        ("r", "GET", "/v1/sweeps", 200),
        ("", "GET", "/v1/sweeps", 401),
        ("r", "POST", "/v1/sweeps", 403),
    ]
    assert all(line["ms"] >= 0 and line["time"].startswith("20") for line in lines)
    assert not any(secret in audit.read_text() for secret in (*tokens.values(), "secret", "wrong"))


def test_a_token_that_is_removed_is_refused_at_once_and_an_unfit_file_lets_nobody_in(tmp_path):
    file = tmp_path / "tokens.json"
    kept, removed = add_token(file, "kept", "read"), add_token(file, "removed", "read")

    def status(url, token):
        return httpx.get(f"{url}/v1/sweeps", headers=bearer(token), trust_env=False).status_code

    with serving(tmp_path, tokens=TokenFile(file)) as (url, _):
        assert (status(url, kept), status(url, removed)) == (200, 200)
        remove_token(file, "removed")
        assert (status(url, kept), status(url, removed)) == (200, 401)
        file.chmod(0o644)
        assert status(url, kept) == 503
        file.unlink()
        assert status(url, kept) == 503


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org"])
def test_beyond_this_machine_nothing_starts_without_tokens(tmp_path, host):
    with pytest.raises(PullbackError, match=r"not started.*pullback tokens add"):
        tokens_for(host, None)
    token = add_token(tmp_path / "tokens.json", "a", "read")
    found = tokens_for(host, tmp_path / "tokens.json")
    assert found is not None
    assert found.find(token.encode()) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_on_this_machine_no_tokens_are_needed(host):
    assert tokens_for(host, None) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "a@127.0.0.1x"])
def test_without_tokens_only_this_machines_own_names_are_served(service, host):
    for path in ("/v1/sweeps", "/healthz", "/docs", "/nowhere"):
        answer = httpx.get(service + path, headers={"Host": host}, trust_env=False)
        assert answer.status_code in (400, 403), (path, host)
        assert "mine" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8000", "LOCALHOST:80"])
def test_without_tokens_this_machines_names_are_served(service, host):
    assert httpx.get(f"{service}/healthz", headers={"Host": host}, trust_env=False).status_code == 200


def test_without_tokens_a_page_of_another_site_is_refused(service, backend):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"):
        answer = httpx.post(f"{service}/v1/sweeps/mine/cancel", headers={"Origin": origin}, trust_env=False)
        assert answer.status_code == 403
    assert backend.cancelled == []
    assert httpx.get(f"{service}/healthz", headers={"Origin": service}, trust_env=False).status_code == 200


def test_without_tokens_others_than_this_machine_are_refused(service, folder):
    import anyio

    from pullback.api.app import create_app

    async def status(client):
        transport = httpx.ASGITransport(create_app(folder, FakeBackend()), client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as ask:
            return (await ask.get("/healthz", headers={"X-Forwarded-For": "127.0.0.1"})).status_code

    assert anyio.run(status, ("192.0.2.7", 5)) == 403
    assert anyio.run(status, ("127.0.0.1", 5)) == 200
    # nor does a header make this machine somebody else, or somebody else this machine
    headers = {"X-Forwarded-For": "192.0.2.7", "Forwarded": "for=192.0.2.7"}
    assert httpx.get(f"{service}/healthz", headers=headers, trust_env=False).status_code == 200


IDS = [
    "..", ".", "...", "%2e%2e", "..%2fmine", "mine%2f..%2fnew", "%2fetc%2fpasswd", "..%5cmine", "mine%00", "mine%0a",
    "mine%20", ".mine", "-mine", "a..b", "m" * 101, "m" * 5000, "%ff%fe", "é", "mine;x", "mine%3fx", "photos",
    "notes.txt", "link", "outside", "~", "%7eroot", "C:", "mine.report.html", "mine.events.jsonl", "nowhere",
]  # fmt: skip


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("rest", ["", "/status", "/events", "/spectra", "/eigenvectors?sample=0", "/report"])
def test_a_hostile_id_finds_nothing(hostile, id, rest):
    answer = raw(hostile, f"GET /v1/sweeps/{id}{rest} HTTP/1.1")
    status = int(answer.split()[1])
    assert status in (400, 404, 422), answer
    assert "hidden-words" not in answer
    assert "Traceback" not in answer


def test_a_hostile_id_cancels_nothing(hostile):
    for id in IDS:
        assert int(raw(hostile, f"POST /v1/sweeps/{id}/cancel HTTP/1.1").split()[1]) in (400, 404, 405)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A service of a folder with links out of it and within it."""
    place = tmp_path_factory.mktemp("hostile")
    create(place / "outside" / "other", LAYOUT, {"name": "hidden-words"})
    create(place / "sweeps" / "mine", LAYOUT, {"name": "mine"})
    (place / "sweeps" / "photos").mkdir()
    (place / "sweeps" / "notes.txt").write_text("hidden-words")
    (place / "sweeps" / "outside").symlink_to(place / "outside" / "other")
    (place / "sweeps" / "link").symlink_to(place / "sweeps" / "mine")
    (place / "secret").write_text("hidden-words\n")
    (place / "sweeps" / "mine.events.jsonl").symlink_to(place / "secret")
    (place / "sweeps" / "mine.report.html").symlink_to(place / "secret")
    with serving(place / "sweeps", FakeBackend(states={"mine": SweepState("done", "mine")})) as (url, _):
        yield url


def raw(url, request, *headers, body=b""):
    """The answer to a request that no well-behaved client would send."""
    host, port = url.removeprefix("http://").split(":")
    lines = [request, "Host: 127.0.0.1", "Connection: close", *headers]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("utf-8") + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode("utf-8", "replace")


def test_links_are_not_listed_and_files_beside_a_sweep_are_not_followed(hostile):
    with httpx.Client(base_url=hostile, trust_env=False) as ask:
        assert [sweep["id"] for sweep in ask.get("/v1/sweeps").json()["sweeps"]] == ["mine"]
        assert ask.get("/v1/sweeps/mine/events").text == ""
        assert ask.get("/v1/sweeps/mine/report").status_code == 404


def test_a_body_that_is_too_long_is_refused_whatever_it_says_of_itself(service, backend):
    def chunks():
        for _ in range(80):
            yield b"x" * 1024

    declared = httpx.post(f"{service}/v1/sweeps", content=b"x" * (64 * 1024 + 1), trust_env=False)
    streamed = raw(
        service,
        "POST /v1/sweeps HTTP/1.1",
        "Transfer-Encoding: chunked",
        body=b"".join(b"400\r\n" + chunk + b"\r\n" for chunk in chunks()) + b"0\r\n\r\n",
    )
    huge = raw(service, "POST /v1/sweeps HTTP/1.1", "Content-Length: 99999999999999999999")
    assert declared.status_code == 413
    assert streamed.split()[1] == "413"
    assert huge.split()[1] in ("400", "413")
    assert backend.submitted == {}


def test_a_body_that_does_not_come_is_given_up(folder):
    with serving(folder, body_seconds=0.2) as (url, _):
        answer = raw(url, "POST /v1/sweeps HTTP/1.1", "Content-Length: 100", body=b"name: ")
    assert answer.split()[1] == "408"


def test_a_read_that_takes_too_long_is_given_up_and_too_many_are_refused(folder):
    asked, go_on = threading.Event(), threading.Event()

    class Slow(FakeBackend):
        def state(self, path, look):
            asked.set()
            assert go_on.wait(30)
            return SweepState("done", "mine")

    with serving(folder, Slow(), read_seconds=0.3, threads=1, waiting=0) as (url, _):
        try:
            assert httpx.get(f"{url}/v1/sweeps/mine/status", trust_env=False).status_code == 504
            assert asked.is_set()
            busy = httpx.get(f"{url}/v1/sweeps", trust_env=False)  # the first is under way still
            assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        finally:
            go_on.set()
        while httpx.get(f"{url}/v1/sweeps", trust_env=False).status_code == 503:
            pass


def test_an_error_that_nobody_expected_shows_no_code(folder):
    class Broken(FakeBackend):
        def state(self, path, look):
            raise ZeroDivisionError("a secret of the code")

    with serving(folder, Broken()) as (url, _):
        answer = httpx.get(f"{url}/v1/sweeps/mine/status", trust_env=False)
    assert answer.status_code == 500
    assert "nothing is lost" in answer.json()["error"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_every_answer_forbids_guessing_and_framing(ask):
    for path in ("/healthz", "/v1/sweeps", "/nowhere", "/v1/sweeps/mine/spectra"):
        headers = ask.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "private, no-cache"
        assert "server" not in headers


def test_what_is_no_route_is_answered_in_json(ask):
    assert ask.get("/nowhere").json()["error"].startswith("not found")
    assert ask.delete("/v1/sweeps").status_code == 405
