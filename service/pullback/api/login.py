"""The login page, which exchanges a token for the cookie of a session (`sessions`). Plain HTML without scripts.

Forms are accepted only from pages of this service, and a login redirects only to pages of this service.
"""

from html import escape
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import APIRouter, Request, Response
from starlette.types import Scope

from pullback.api.sessions import Sessions, cookie

_LONGEST = 2000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # with no-referrer, browsers would send `Origin: null` with the form
    "Referrer-Policy": "same-origin",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pullback: log in</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 30em; margin: 3em auto; padding: 0 1em; color: #222; }
label, input, button { display: block; font: inherit; }
input { width: 100%%; box-sizing: border-box; padding: .4em; margin: .3em 0 1em; }
[role=alert] { color: #b00020; }
</style>
</head>
<body>
<main>
<h1>Pullback</h1>
%s
</main>
</body>
</html>
"""
_FORM = """%(alert)s
<form method="post" action="%(root)s/login">
<input type="hidden" name="next" value="%(next)s">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required autofocus>
<button>Log in</button>
</form>
<p>The operator of this service creates tokens (<code>pullback tokens add</code>). A login lasts 12 hours
and allows reading; programs send the token in the header <code>Authorization: Bearer TOKEN</code>.</p>"""
_INSIDE = """<p>You are logged in as %(name)s.</p>
<p><a href="%(root)s/docs">Routes and documentation</a></p>
<form method="post" action="%(root)s/logout"><button>Log out</button></form>"""


def login_routes(sessions: Sessions) -> APIRouter:
    """Return the routes of the login page, the login and the logout; they are not part of OpenAPI."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def page(request: Request) -> Response:
        root, token = _root(request), sessions.find(_cookies(request.scope))
        if token is not None:
            return _html(_INSIDE % {"name": escape(token.name), "root": escape(root)})
        return _form(root, request.query_params.get("next", ""))

    @router.post("/login")
    async def login(request: Request) -> Response:
        root = _root(request)
        fields = _fields(await request.body(), request.headers.get("content-type", ""))
        target = fields.get("next", "")
        if not is_same_origin(request.scope):
            return _form(root, target, "This form was sent from another site's page; log in here.", 403)
        started = sessions.start(fields.get("token", ""))
        if started is None:
            return _form(root, target, "The token is unknown; it may have been removed.", 401)
        value, token = started
        request.scope.get("pullback.caller", {})["name"] = token.name
        headers = {"Location": inside(target, root), "Set-Cookie": cookie(value, root, _is_https(request.scope))}
        return Response(status_code=303, headers={**_HEADERS, **headers})

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        root = _root(request)
        if not is_same_origin(request.scope):
            return _html("<p>This form was sent from another site's page; you are still logged in.</p>", 403)
        sessions.end(_cookies(request.scope))
        headers = {"Location": f"{root}/login", "Set-Cookie": cookie("", root, _is_https(request.scope), 0)}
        return Response(status_code=303, headers={**_HEADERS, **headers})

    return router


def to_login(scope: Scope, route: str) -> Response:
    """Return the answer to a browser without a session: a redirect to the login page, which leads back.

    After a link on another site, a browser omits a strict cookie that it may have. The answer makes the browser
    load the same page again, and then it sends the cookie.

    Args:
        scope: of the request.
        route: its path without the root path.
    """
    root, query = scope.get("root_path", ""), scope.get("query_string", b"").decode("latin-1")
    if _header(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
        return _html('<meta http-equiv="refresh" content="0"><p>One moment.</p>', 401)
    here = f"{root}{quote(route)}{'?' if query else ''}{query}"
    return Response(status_code=303, headers={**_HEADERS, "Location": f"{root}/login?next={quote(here, safe='')}"})


def wants_page(scope: Scope) -> bool:
    """Return whether a request comes from a browser that wants a page."""
    return scope["method"] in ("GET", "HEAD") and "text/html" in _header(scope, b"accept")


def inside(target: str, root: str) -> str:
    """Return the target if it is a page of this service, else the documentation."""
    elsewhere = f"{root}/docs"
    try:
        parts = urlsplit(target)
    except ValueError:
        return elsewhere
    plain = target.isascii() and target.isprintable() and "\\" not in target and len(target) <= _LONGEST
    if not plain or parts.scheme or parts.netloc or not target.startswith(f"{root}/") or target.startswith("//"):
        return elsewhere
    if {".", ".."} & {*parts.path.replace("%2e", ".").replace("%2E", ".").split("/")}:
        return elsewhere
    return elsewhere if parts.path in (f"{root}/login", f"{root}/logout") else target


def is_same_origin(scope: Scope) -> bool:
    """Return whether a form comes from a page of this service, or from a program."""
    site = _header(scope, b"sec-fetch-site")
    if site:
        return site in ("same-origin", "none")
    origin = _header(scope, b"origin")
    if not origin:
        return True
    hosts = {_header(scope, b"host"), _header(scope, b"x-forwarded-host").partition(",")[0].strip()}
    return "://" in origin and origin.partition("://")[2] in hosts - {""}


def _is_https(scope: Scope) -> bool:
    """Return whether the browser uses HTTPS, here or to a proxy. A forged header harms only its sender."""
    scheme = _header(scope, b"x-forwarded-proto").partition(",")[0].strip().lower()
    return scope.get("scheme") == "https" or scheme == "https"


def _form(root: str, target: str, alert: str = "", status: int = 200) -> Response:
    shown = {
        "alert": f'<p role="alert">{escape(alert)}</p>' if alert else "",
        "root": escape(root),
        "next": escape(inside(target, root)),
    }
    return _html(_FORM % shown, status)


def _html(content: str, status: int = 200) -> Response:
    return Response(_PAGE % content, status, _HEADERS, "text/html; charset=utf-8")


def _fields(body: bytes, media: str) -> dict[str, str]:
    if media.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    return {name: values[0] for name, values in parse_qs(body.decode("latin-1"), max_num_fields=20).items()}


def _root(request: Request) -> str:
    root: Any = request.scope.get("root_path", "")
    return str(root)


def _cookies(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == b"cookie"]


def _header(scope: Scope, name: bytes) -> str:
    """Return a header's value; empty if it is missing or occurs twice."""
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""
