"""The file of hashed tokens, each with a name and a scope.

Invariants: a token is printed once and never stored; the file must be readable by its owner only; every comparison
takes the same time. A token has 256 random bits, so its plain SHA-256 can be neither guessed nor looked up.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock

from pullback.atomic_files import replace_file
from pullback.errors import PullbackError
from pullback.regular_files import open_regular

Scope = Literal["read", "submit"]
"""`submit` includes `read`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_OTHERS = 0o077
_FORMAT = 1
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class Token:
    """A token as it is stored.

    Attributes:
        name: of its owner; recorded in the audit log.
        scope: what it allows.
        sha256: of the token.
        created: time of creation, UTC.
    """

    name: str
    scope: Scope
    sha256: str
    created: str


class TokenFile:
    """A file of tokens. It is read again when it changes, so a removed token is refused at once.

    Raises:
        PullbackError: the file is missing, readable by other users, or not a file of tokens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        self.tokens()

    def tokens(self) -> list[Token]:
        """Return the tokens that are in the file now."""
        try:
            found = self._path.stat()
            identity = found.st_ino, found.st_mtime_ns, found.st_ctime_ns
            if identity != self._seen:
                self._seen = None
                self._tokens = _read(self._path)
                self._seen = identity
        except OSError as error:
            self._seen = None
            raise PullbackError(
                f"the token file {self._path} cannot be read: {error.strerror}. Every request is refused. "
                "Create it with: pullback tokens add NAME --scope read --file FILE"
            ) from error
        return self._tokens

    def find(self, presented: bytes) -> Token | None:
        """Return the token that was presented, or None; a wrong one always takes the same time."""
        digest = hashlib.sha256(presented).hexdigest()
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def add_token(path: Path, name: str, scope: Scope) -> str:
    """Create a token and add its hash to a file, which is created if it does not exist.

    Returns:
        The token. It cannot be recovered later.

    Raises:
        PullbackError: the name is taken or invalid, or the file is invalid or cannot be written; it is not changed.
    """
    if not _NAME.fullmatch(name):
        raise PullbackError(
            f"{name!r} cannot be a token's name; use letters, digits, '_', '.' and '-', first a letter or digit"
        )
    token = f"pullback_{secrets.token_urlsafe(32)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        tokens = _read(path) if path.exists() else []
        if any(other.name == name for other in tokens):
            raise PullbackError(f"{path} has a token named {name}; remove it first, or choose another name")
        created = datetime.now(UTC).isoformat(timespec="seconds")
        _write(path, [*tokens, Token(name, scope, hashlib.sha256(token.encode()).hexdigest(), created)])
    return token


def remove_token(path: Path, name: str) -> None:
    """Remove a token from a file. A service that uses the file refuses it at once.

    Raises:
        PullbackError: there is no such token, or the file is invalid or cannot be written.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        tokens = TokenFile(path).tokens()
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            names = ", ".join(token.name for token in tokens) or "none"
            raise PullbackError(f"{path} has no token named {name}; it has {names}")
        _write(path, kept)


def _read(path: Path) -> list[Token]:
    with open_regular(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & _OTHERS:
            raise PullbackError(
                f"other users can access the token file {path} (mode {stat.S_IMODE(mode):04o}), so it is not used. "
                f"Restrict it with: chmod 600 {path}"
            )
        content = file.read(_MOST_BYTES + 1)
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        document = json.loads(content)
        tokens = [Token(**entry) for entry in document["tokens"]]
        if document["format"] != _FORMAT or not all(_is_sound(token) for token in tokens):
            raise ValueError("unknown format, name, scope or hash")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PullbackError(
            f"{path} is not a file of tokens ({error}); it was not changed. "
            "Use another file: `pullback tokens add NAME --scope read --file FILE` creates one."
        ) from error
    return tokens


def _is_sound(token: Token) -> bool:
    return (
        isinstance(token.name, str)
        and _NAME.fullmatch(token.name) is not None
        and token.scope in get_args(Scope)
        and isinstance(token.sha256, str)
        and _HASH.fullmatch(token.sha256) is not None
    )


def _write(path: Path, tokens: list[Token]) -> None:
    """Replace the token file; others can read neither the old nor the new one."""
    content = json.dumps({"format": _FORMAT, "tokens": [asdict(token) for token in tokens]}, indent=2)
    replace_file(path, content + "\n", private=True)
