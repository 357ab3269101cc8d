"""Paths of the server, taken out of what remote users are told: they can do nothing with them.

Of a path its last part is left, which often tells what is meant (a file of weights, a line of a module).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Our own routes, which messages name, are no paths of the server.
_ROUTE = r"(?:v1/sweeps(?:/[\w.-]+(?:/[a-z]+)?)?|docs|healthz|metrics|openapi\.json)(?![\w/-]|\.\w)"
_BEGIN = rf"(?:file:/*|~|\.+)?/(?!/|{_ROUTE})"
_PART = r"[^\s/'\"`,;:()<>\[\]{}]"
_ALL = rf"(?:{_PART}+/)+(?P<name>{_PART}*)|(?P<root>{_PART}+\.\w+)"
# What is quoted may have spaces in it.
_QUOTED = re.compile(rf"""(?P<quote>['"`]){_BEGIN}(?:[^'"`\n]*/)?(?P<name>[^'"`\n/]*)(?P=quote)""")
# Not what follows the scheme of another address, and no fraction.
_PATH = re.compile(rf"(?<![\w/~%….-]){_BEGIN}(?:{_ALL})")


def without_paths(text: str, folder: Path) -> str:
    """A text as a remote user can use it.

    Args:
        text: a message, with any paths.
        folder: that holds the sweeps; they are called by their ids.
    """
    for place in {folder, folder.resolve()}:
        text = text.replace(f"{place}/", "")
    for known in {Path.cwd(), Path.home()}:  # which may have spaces in them
        if known != Path(known.anchor):
            text = text.replace(f"{known}/", "…/")
    text = _QUOTED.sub(r"\g<quote>…/\g<name>\g<quote>", text)
    return _PATH.sub(lambda found: f"…/{found['name'] or found['root'] or ''}", text)


def in_strings(content: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed, but for the keys."""
    if isinstance(content, str):
        return change(content)
    if isinstance(content, dict):
        return {key: in_strings(value, change) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [in_strings(value, change) for value in content]
    return content


def in_line(line: bytes, change: Callable[[str], str]) -> bytes:
    """A line of a journal with every text in it changed; of one that is torn, all of it."""
    if b"/" not in line:
        return line
    try:
        content = json.loads(line)
    except ValueError:
        return change(line.decode(errors="replace")).encode()
    return json.dumps(in_strings(content, change)).encode() + b"\n"
