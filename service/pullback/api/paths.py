"""Removes paths of the server from messages to remote users, who cannot use them.

The last part of a path stays, because it often identifies the file (weights, a module).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Messages name our own routes, which are not paths of the server.
_ROUTE = r"(?:v1/sweeps(?:/[\w.-]+(?:/[a-z]+)?)?|docs|healthz|metrics|openapi\.json)(?![\w/-]|\.\w)"
_BEGIN = rf"(?:file:/*|~|\.+)?/(?!/|{_ROUTE})"
_PART = r"[^\s/'\"`,;:()<>\[\]{}]"
_ALL = rf"(?:{_PART}+/)+(?P<name>{_PART}*)|(?P<root>{_PART}+\.\w+)"
# A quoted path may contain spaces.
_QUOTED = re.compile(rf"""(?P<quote>['"`]){_BEGIN}(?:[^'"`\n]*/)?(?P<name>[^'"`\n/]*)(?P=quote)""")
# Neither the rest of a URL nor a fraction.
_PATH = re.compile(rf"(?<![\w/~%….-]){_BEGIN}(?:{_ALL})")


def without_paths(text: str, folder: Path) -> str:
    """Return a message without paths of the server.

    Args:
        text: a message.
        folder: the folder of the sweeps; a sweep's path becomes its id.
    """
    for place in {folder, folder.resolve()}:
        text = text.replace(f"{place}/", "")
    for known in {Path.cwd(), *_home()}:  # these may contain spaces
        if known != Path(known.anchor):
            text = text.replace(f"{known}/", "…/")
    text = _QUOTED.sub(r"\g<quote>…/\g<name>\g<quote>", text)
    return _PATH.sub(lambda found: f"…/{found['name'] or found['root'] or ''}", text)


def in_strings(content: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with `change` applied to every text but keys."""
    if isinstance(content, str):
        return change(content)
    if isinstance(content, dict):
        return {key: in_strings(value, change) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [in_strings(value, change) for value in content]
    return content


def in_line(line: bytes, change: Callable[[str], str]) -> bytes:
    """Return a line of a journal with `change` applied to its texts; to all of it if it is not JSON."""
    if b"/" not in line:
        return line
    try:
        content = json.loads(line)
    except ValueError:
        return change(line.decode(errors="replace")).encode()
    return json.dumps(in_strings(content, change)).encode() + b"\n"


def _home() -> list[Path]:
    """Return the user's home folder; an empty list for a user without one."""
    try:
        return [Path.home()]
    except RuntimeError:
        return []
