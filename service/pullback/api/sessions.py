"""Sessions of browsers: a cookie in place of a token, for reading only.

Browsers cannot send `Authorization` with a link, so they could not open /docs and reports. A login with a token gives a
random cookie. It is stored in the memory of this process, ends after some hours or with its token, and allows safe
methods only, so a page of another site cannot use it to change anything.
"""

import hashlib
import secrets
from dataclasses import dataclass
from time import monotonic

from pullback.api.tokens import Token, TokenFile

COOKIE = "pullback_session"
SECONDS = 12 * 3600
"""Duration of a session."""
_MOST = 10_000


@dataclass(frozen=True)
class _Session:
    name: str
    sha256: str
    """SHA-256 of the token. A later token of the same name does not revive the session."""
    ends: float


class Sessions:
    """The open sessions of a service.

    Args:
        tokens: valid tokens; removing a token ends its sessions.
    """

    def __init__(self, tokens: TokenFile) -> None:
        self.tokens = tokens
        self._open: dict[str, _Session] = {}

    def start(self, presented: str) -> tuple[str, Token] | None:
        """Start a session for a token; return the cookie's value and the token, or None if the token is unknown.

        Raises:
            PullbackError: the file of tokens cannot be read.
        """
        token = self.tokens.find(presented.strip().encode("utf-8", "replace"))
        if token is None:
            return None
        now = monotonic()
        self._open = {key: each for key, each in self._open.items() if each.ends > now}
        while len(self._open) >= _MOST:
            del self._open[next(iter(self._open))]
        value = secrets.token_urlsafe(32)
        self._open[_key(value)] = _Session(token.name, token.sha256, now + SECONDS)
        return value, token

    def find(self, cookies: list[bytes]) -> Token | None:
        """Return the token of the open session that the `Cookie` headers name; None if they name none.

        Raises:
            PullbackError: the file of tokens cannot be read.
        """
        for value in _values(cookies):
            session = self._open.get(_key(value))
            if session is not None and session.ends > monotonic():
                for token in self.tokens.tokens():
                    if (token.name, token.sha256) == (session.name, session.sha256):
                        return token
        return None

    def end(self, cookies: list[bytes]) -> None:
        """End the sessions that the `Cookie` headers of a request name."""
        for value in _values(cookies):
            self._open.pop(_key(value), None)


def cookie(value: str, path: str, secure: bool, seconds: int = SECONDS) -> str:
    """Return the `Set-Cookie` header. Scripts cannot read the cookie, and requests from other sites do not send it.

    Args:
        value: of the cookie; empty to delete it.
        path: of the service, as the browser sees it.
        secure: whether the browser uses HTTPS; it then sends the cookie over HTTPS only.
        seconds: how long the browser keeps it.
    """
    last = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Path={path or '/'}; Max-Age={seconds}; HttpOnly; SameSite=Strict{last}"


def _values(cookies: list[bytes]) -> list[str]:
    pairs = (part.strip().partition("=") for header in cookies for part in header.decode("latin-1").split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


def _key(value: str) -> str:
    """Return the hash under which a session is stored, so that the time of a lookup reveals no cookie."""
    return hashlib.sha256(value.encode("latin-1", "replace")).hexdigest()
