"""Who may use the service: a file of hashed tokens, each with a name and a scope.

Invariants: a token itself is printed once and stored nowhere; the file can be read by its owner only, and is refused
otherwise; every comparison takes the same time. A token has 256 random bits, so a plain SHA-256 of it can be neither
guessed nor looked up.
"""

import errno
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

from pullback.errors import PullbackError

Scope = Literal["read", "submit"]
"""`submit` may read too."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_OTHERS = 0o077
_FORMAT = 1


@dataclass(frozen=True)
class Token:
    """A token as it is stored.

    Attributes:
        name: whose it is; stands in the audit log.
        scope: what it is good for.
        sha256: of the token itself.
        created: when, in UTC.
    """

    name: str
    scope: Scope
    sha256: str
    created: str


class TokenFile:
    """A file of tokens. It is read again when it changes, so that a token which is removed is refused at once.

    Raises:
        PullbackError: the file is not there, is open to others than its owner, or is not a file of tokens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        self.tokens()

    def tokens(self) -> list[Token]:
        """Every token of the file, as it is now."""
        try:
            found = self._path.stat()
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
        except OSError as error:
            raise PullbackError(
                f"the token file {self._path} cannot be read: {error.strerror}. Nobody is let in. "
                "Make it with: pullback tokens add NAME --scope read --file FILE"
            ) from error
        identity = found.st_ino, found.st_mtime_ns, found.st_ctime_ns
        if identity != self._seen:
            self._tokens = _read(self._path)
            self._seen = identity
        return self._tokens

    def find(self, presented: bytes) -> Token | None:
        """The token that was presented, or None; takes as long for any that is wrong."""
        digest = hashlib.sha256(presented).hexdigest()
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def add_token(path: Path, name: str, scope: Scope) -> str:
    """Make a token, and add its hash to a file, which is made if it is not there.

    Returns:
        The token. It cannot be had again.

    Raises:
        PullbackError: the name is taken or unfit, or the file is unfit or cannot be written; it is left as it is.
    """
    if not _NAME.fullmatch(name):
        raise PullbackError(
            f"{name!r} cannot be a token's name; take letters, digits, '_', '.' and '-', the first a letter or a digit"
        )
    token = f"pullback_{secrets.token_urlsafe(32)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        tokens = _read(path) if path.exists() else []
        if any(other.name == name for other in tokens):
            raise PullbackError(f"{path} has a token named {name} already; remove that one first, or take another name")
        created = datetime.now(UTC).isoformat(timespec="seconds")
        _write(path, [*tokens, Token(name, scope, hashlib.sha256(token.encode()).hexdigest(), created)])
    return token


def remove_token(path: Path, name: str) -> None:
    """Take a token out of a file; a service that uses the file refuses it from then on.

    Raises:
        PullbackError: there is no such token, or the file is unfit or cannot be written.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        tokens = TokenFile(path).tokens()
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            names = ", ".join(token.name for token in tokens) or "none"
            raise PullbackError(f"{path} has no token named {name}; it has {names}")
        _write(path, kept)


def _read(path: Path) -> list[Token]:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & _OTHERS:
            raise PullbackError(
                f"the token file {path} is open to others than its owner (mode {stat.S_IMODE(mode):04o}); it is not "
                f"used. Close it with: chmod 600 {path}"
            )
        content = file.read()
    try:
        document = json.loads(content)
        tokens = [Token(**entry) for entry in document["tokens"]]
        if document["format"] != _FORMAT or not all(_is_sound(token) for token in tokens):
            raise ValueError("unknown format, name, scope or hash")
    except (ValueError, TypeError, KeyError) as error:
        raise PullbackError(
            f"{path} is not a file of tokens ({error}); it was left as it is. "
            "Name another file: `pullback tokens add NAME --scope read --file FILE` makes one."
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
    """Put a new file in place of the old one; neither is ever open to others."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    content = json.dumps({"format": _FORMAT, "tokens": [asdict(token) for token in tokens]}, indent=2)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content + "\n")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
