"""Plain, bounded YAML: the subset of it that a job may use.

PyYAML keeps the last of two equal keys and expands aliases without bound, both silently. Here duplicate keys,
aliases, several documents and oversized files are problems, reported with their line.
Leaves to others: what the values mean (`spec`).
"""

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 64 * 1024
"""Jobs are a few hundred bytes; a file beyond this is not a job."""
_MAX_DEPTH = 20


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """The file's content as plain Python values, and every problem of form that was found on the way.

    Returns:
        The content (None where it cannot be had) and the problems, one sentence each.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None, [f"there is no such file; the working directory is {Path.cwd()}"]
    except OSError as error:
        return None, [f"it cannot be read: {error.strerror}"]
    if len(raw) > MAX_BYTES:
        return None, [f"it has {len(raw)} bytes; a job has at most {MAX_BYTES}"]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [f"it is not UTF-8 text: {error.reason} at byte {error.start}"]
    return parse_yaml(text)


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """As `read_yaml`, for text already read."""
    try:
        problems = _aliases(text)
        if problems:
            return None, problems
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, ["it is empty; see jobs/quickstart.yaml for a complete job"]
        problems = _duplicate_keys(node, "")
        content = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return None, [f"{where}not valid YAML: {error.problem}"]
    except (yaml.YAMLError, ValueError) as error:
        return None, [f"not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(content, dict):
        return None, [f"the job must be a mapping of keys to values, not {type(content).__name__}"]
    return content, problems


def _aliases(text: str) -> list[str]:
    """Aliases and nesting are looked for in the event stream, before anything is built from it."""
    problems: list[str] = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            problems.append(f"line {line}: aliases (*{event.anchor}) are not allowed; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return [f"line {line}: nested more than {_MAX_DEPTH} deep"]
    return problems


def _duplicate_keys(node: yaml.Node, path: str) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [problem for item in node.value for problem in _duplicate_keys(item, path)]
    if not isinstance(node, yaml.MappingNode):
        return []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        here = f"{path}.{name}" if path else name
        line = key.start_mark.line + 1
        if name in first_line:
            problems.append(f"{here}: the key stands twice, on lines {first_line[name]} and {line}; keep one")
        first_line.setdefault(name, line)
        problems += _duplicate_keys(value, here)
    return problems
