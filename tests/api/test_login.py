"""Browsers: the login page, its cookie, health probes, and a service behind a proxy's prefix."""

import re
import time

import httpx
import pytest
from served_sweeps import FakeBackend, serving

from pullback.api import sessions
from pullback.api.app import root_path_of
from pullback.api.login import inside
from pullback.api.tokens import TokenFile, add_token, remove_token
from pullback.driving.sweep_state import SweepState
from pullback.errors import PullbackError

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return file, {name: add_token(file, name, scope) for name, scope in (("r", "read"), ("s", "submit"))}


@pytest.fixture(scope="module")
def backend():
    return FakeBackend(states={"mine": SweepState("running", "mine")})


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def served(folder, backend, tokens, audit):
    with serving(folder, backend, TokenFile(tokens[0]), audit) as (url, _):
        yield url


@pytest.fixture
def browser(served):
    with httpx.Client(base_url=served, headers=PAGE, trust_env=False) as client:
        yield client


def log_in(browser, token, **headers):
    form = {"token": token, "next": "/v1/sweeps"}
    return browser.post("/login", data=form, headers={"Origin": str(browser.base_url).rstrip("/"), **headers})


@pytest.mark.parametrize("path", ["/docs", "/v1/sweeps/mine/report", "/v1/sweeps?limit=3", "/nowhere/%C3%A9"])
def test_a_browser_is_led_to_the_login_and_from_there_to_the_page_that_it_asked_for(browser, tokens, path):
    led = browser.get(path)
    assert led.status_code == 303
    page = browser.get(led.headers["Location"])
    assert (page.status_code, 'type="password"' in page.text) == (200, True)
    target = re.search(r'name="next" value="([^"]*)"', page.text)[1]
    done = browser.post("/login", data={"token": f" {tokens[1]['r']}\n", "next": target})
    assert done.status_code == 303
    assert done.headers["Location"] == path
    assert browser.get(path).status_code != 303


def test_a_program_is_answered_in_json_as_ever(served):
    for headers in ({}, {"Accept": "application/json"}, {**PAGE, "Authorization": "Bearer wrong"}):
        answer = httpx.get(f"{served}/docs", headers=headers, trust_env=False)
        assert (answer.status_code, "error" in answer.json()) == (401, True)
    assert httpx.post(f"{served}/v1/sweeps", headers=PAGE, trust_env=False).status_code == 401


def test_the_cookie_is_strict_unreadable_for_scripts_and_no_token(browser, tokens):
    cookie = log_in(browser, tokens[1]["s"]).headers["Set-Cookie"]
    assert tokens[1]["s"] not in cookie
    parts = [part.strip() for part in cookie.split(";")]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(parts)
    assert "Secure" not in parts
    assert not any(part.startswith("Domain") for part in parts)


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "https, http"])
def test_behind_https_the_cookie_is_for_https_only(browser, tokens, scheme):
    assert "; Secure" in log_in(browser, tokens[1]["r"], **{"X-Forwarded-Proto": scheme}).headers["Set-Cookie"]


def test_a_cookie_reads_and_changes_nothing(browser, tokens, backend):
    log_in(browser, tokens[1]["s"])
    for path in ("/docs", "/openapi.json", "/v1/sweeps", "/v1/sweeps/mine", "/metrics"):
        assert browser.get(path).status_code == 200, path
        assert browser.head(path).status_code == 200, path
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/v1/sweeps", "/v1/sweeps/mine/cancel", "/v1/sweeps/mine/analysis"):
            assert browser.request(method, path).status_code == 401, (method, path)
    assert backend.cancelled == []
    assert backend.submitted == {}
    bearing = browser.post("/v1/sweeps/mine/cancel", headers={"Authorization": f"Bearer {tokens[1]['s']}"})
    assert bearing.status_code == 202
    backend.cancelled.clear()


def test_a_session_ends_with_its_logout_even_for_who_kept_the_cookie(served, browser, tokens):
    log_in(browser, tokens[1]["r"])
    kept = dict(browser.cookies)
    assert "logged in as r" in browser.get("/login").text
    left = browser.post("/logout")
    assert (left.status_code, "Max-Age=0" in left.headers["Set-Cookie"]) == (303, True)
    assert browser.get("/docs").status_code == 303
    assert httpx.get(f"{served}/v1/sweeps", cookies=kept, trust_env=False).status_code == 401


def test_a_session_ends_with_its_token_and_with_time(folder, tmp_path, monkeypatch):
    file = tmp_path / "tokens.json"
    token, _ = add_token(file, "anna", "read"), add_token(file, "bo", "read")
    with (
        serving(folder, tokens=TokenFile(file)) as (url, _),
        httpx.Client(base_url=url, headers=PAGE, trust_env=False) as browser,
    ):
        log_in(browser, token)
        assert browser.get("/v1/sweeps").status_code == 200
        remove_token(file, "anna")
        assert browser.get("/v1/sweeps").status_code == 303
        again = add_token(file, "anna", "read")
        assert browser.get("/v1/sweeps").status_code == 303, "another token of the same name"
        log_in(browser, again)
        assert browser.get("/v1/sweeps").status_code == 200
        later = time.monotonic() + sessions.SECONDS + 1
        monkeypatch.setattr(sessions, "monotonic", lambda: later)
        assert browser.get("/v1/sweeps").status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", "é", "x" * 5000, "\x00"])
def test_a_wrong_token_logs_nobody_in_and_is_not_repeated(browser, token):
    answer = log_in(browser, token)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "alert" in answer.text
    assert len(token) < 5 or token not in answer.text.replace("/login", "")
    assert browser.get("/docs").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_sites_page_can_log_nobody_in_or_out(browser, tokens, headers):
    assert log_in(browser, tokens[1]["r"], **headers).status_code == 403
    assert not browser.cookies
    log_in(browser, tokens[1]["r"])
    assert browser.post("/logout", headers=headers).status_code == 403
    assert browser.get("/docs").status_code == 200


def test_a_link_on_another_sites_page_leads_through_a_page_of_this_one(browser, tokens):
    """A strict cookie does not come along with such a link; it does when this service's own page goes on."""
    bounced = browser.get("/docs", headers={"Sec-Fetch-Site": "cross-site"})
    assert bounced.status_code == 401
    assert 'http-equiv="refresh"' in bounced.text
    log_in(browser, tokens[1]["r"])
    assert browser.get("/docs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


ELSEWHERE = [
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/a\r\nSet-Cookie: x=y",
    "/x/../..//evil.example",
    "/%2e%2e/other",
    "evil.example",
    "",
    "/login",
    "http:///evil",
    "/é",
    "/" + "a" * 3000,
    "http://[",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_login_leads_to_no_other_site(browser, tokens, target):
    assert inside(target, "") == "/docs"
    done = browser.post("/login", data={"token": tokens[1]["r"], "next": target})
    assert done.headers["Location"] == "/docs"
    shown = browser.get("/login", params={"next": target}).text
    assert "evil" not in shown


def test_the_pages_run_no_scripts_and_are_kept_nowhere(browser):
    for answer in (browser.get("/login"), browser.post("/login", data={"token": "x"})):
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "<script" not in answer.text
    hostile = browser.get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script" not in hostile.text


def test_the_audit_log_has_the_names_of_logins_and_no_token_or_cookie(browser, tokens, audit):
    log_in(browser, tokens[1]["s"])
    browser.get("/v1/sweeps")
    text = audit.read_text()
    assert '"token": "s", "method": "POST", "path": "/login"' in text
    assert '"token": "s", "method": "GET", "path": "/v1/sweeps"' in text
    for secret in (tokens[1]["s"], browser.cookies[sessions.COOKIE]):
        assert secret not in text


def test_a_health_probe_needs_no_token_and_says_alive_and_nothing_else(served, folder, tmp_path):
    for method in ("GET", "HEAD"):
        for headers in ({}, {"Host": "10.1.2.3:8000"}, {"Authorization": "Bearer wrong"}):
            answer = httpx.request(method, f"{served}/healthz", headers=headers, trust_env=False)
            assert answer.status_code == 200
            assert answer.content in (b"", b'{"status":"ok"}')
            assert {"server", "pullback-snapshot", "set-cookie"} & {*answer.headers} == set()
    for path in ("/healthz/", "/healthz/../v1/sweeps", "//healthz", "/HEALTHZ", "/healthz%2f..%2fv1%2fsweeps"):
        assert httpx.get(served + path, trust_env=False).status_code == 401, path
    assert httpx.post(f"{served}/healthz", trust_env=False).status_code == 401
    file = tmp_path / "tokens.json"
    bearer = {"Authorization": f"Bearer {add_token(file, 'anna', 'read')}"}
    with serving(folder, tokens=TokenFile(file)) as (url, _):
        file.unlink()
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{url}/v1/sweeps", headers=bearer, trust_env=False).status_code == 503


@pytest.fixture(scope="module")
def prefixed(folder, tokens):
    with serving(folder, FakeBackend(), TokenFile(tokens[0]), root_path="/metrics-of/pullback") as (url, _):
        yield url


@pytest.mark.parametrize("cut", [True, False], ids=["the proxy cuts the prefix off", "the proxy passes it on"])
def test_behind_a_prefix_every_link_has_it(prefixed, tokens, cut):
    root = "/metrics-of/pullback"

    def at(path):
        """Where a proxy asks for what a browser sees at a path."""
        assert path.startswith(f"{root}/"), path
        return path.removeprefix(root) if cut else path

    with httpx.Client(base_url=prefixed, headers=PAGE, trust_env=False) as browser:
        assert browser.get(at(f"{root}/healthz")).status_code == 200
        led = browser.get(at(f"{root}/docs"))
        assert led.status_code == 303
        form = browser.get(at(led.headers["Location"])).text
        action, target = (re.search(rf'{name}="([^"]*)"', form)[1] for name in ("action", 'name="next" value'))
        assert (action, target) == (f"{root}/login", f"{root}/docs")
        done = browser.post(at(action), data={"token": tokens[1]["r"], "next": target})
        cookie = done.headers["Set-Cookie"]
        assert f"Path={root};" in cookie
        signed = {"Cookie": cookie.partition(";")[0]}
        docs = browser.get(at(done.headers["Location"]), headers=signed).text
        links = re.findall(r"(?:href|src)=\"([^\"]+)\"|url: '([^']+)'", docs)
        local = [one or other for one, other in links if not (one or other).startswith("http")]
        assert any("openapi.json" in link for link in local)
        for link in local:
            assert browser.get(at(link), headers=signed).status_code == 200, link
        described = browser.get(at(f"{root}/openapi.json"), headers=signed).json()
        assert described["servers"] == [{"url": root}]
        bearer = {"Authorization": f"Bearer {tokens[1]['s']}"}
        asked = browser.post(at(f"{root}/v1/sweeps/mine/analysis"), headers=bearer)
        assert asked.headers["Location"].startswith(f"{root}/v1/sweeps/mine/analysis")
        made = browser.post(
            at(f"{root}/v1/sweeps"),
            headers=bearer,
            json={"name": "x", "generator": "dcgan-faces", "distance": "mse", "samples": {"count": 2}},
        )
        assert made.headers["Location"] == f"{root}/v1/sweeps/x/status"
        missing = browser.get(at(f"{root}/nowhere"), headers=signed).json()["error"]
        assert f"{root}/docs" in missing


def test_a_prefix_opens_nothing(prefixed):
    for path in ("/metrics-of/pullback", "/metrics-of/pullbackhealthz", "/metrics-of/healthz", "/metrics-of/pullback/"):
        assert httpx.get(prefixed + path, trust_env=False).status_code == 401, path


def test_a_root_path_is_written_in_any_usual_way():
    assert [root_path_of(text) for text in ("", "/", "pullback", "/pullback/", "a/b")] == [
        "",
        "",
        "/pullback",
        "/pullback",
        "/a/b",
    ]
    for wrong in ("https://x", "/a//b", "/a/../b", '/"', "/a b", "/é", "/a;b", "/."):
        with pytest.raises(PullbackError, match="cannot be a root path"):
            root_path_of(wrong)
