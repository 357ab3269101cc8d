"""Paths of the server, taken out of what remote users are told: they can do nothing with them.

Of a path its last part is left, which often tells what is meant (a file of weights, a line of a module).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OF_THE_SERVICE = r"(?:v1|docs|healthz|metrics|openapi\.json)\b"
# An absolute path of two parts or more; not what follows the scheme of an address, nor a fraction or a route of ours.
_PATH = re.compile(
    rf"(?<![\w/.~%…-])/(?!/|{_OF_THE_SERVICE})(?:[^\s/'\"`,;:()<>\[\]{{}}]+/)+([^\s/'\"`,;:()<>\[\]{{}}]*)"
)


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
    return _PATH.sub(r"…/\1", text)


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
