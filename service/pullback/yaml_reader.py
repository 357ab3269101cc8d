"""Plain, bounded YAML: the subset of it that a job may use.

PyYAML keeps the last of two equal keys, merges mappings (`<<`), expands aliases without bound, and reads 010 as 8 and
1:30 as 90 (YAML 1.1), all silently. Here duplicate keys, merge keys, aliases, tags (`!!set`), such numbers, several
documents, oversized files and whole numbers beyond 64 bits are problems, reported with their line or path.
Leaves to others: what the values mean (`spec`).
"""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 64 * 1024
"""Jobs are a few hundred bytes; a file beyond this is not a job."""
_MAX_DEPTH = 20
_MAX_BITS = 63
_YAML_TAG = "tag:yaml.org,2002:"
_OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|.*:.*)")
"""What YAML 1.1 takes for a number of base 8 or 60, and YAML 1.2 does not."""


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """The file's content as plain Python values, and every problem of form that was found on the way.

    Returns:
        The content (None where it cannot be had) and the problems, one sentence each.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None, [f"there is no such file; the working directory is {Path.cwd()}"]
    except IsADirectoryError:
        return None, ["it is a folder, and a job is a YAML file, such as jobs/quickstart.yaml"]
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
        problems = _forbidden(text)
        if problems:
            return None, problems
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, ["it is empty; see jobs/quickstart.yaml for a complete job"]
        problems = _misleading(node, "")
        content = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return None, [f"{where}not valid YAML: {error.problem}"]
    except (yaml.YAMLError, ValueError) as error:
        return None, [f"not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(content, dict):
        return None, [f"the job must be a mapping of keys to values, not {type(content).__name__}"]
    oversized = _oversized_numbers(content, "")
    return (None, problems + oversized) if oversized else (content, problems)


def _forbidden(text: str) -> list[str]:
    """Aliases, tags and nesting are looked for in the event stream, before anything is built from it.

    PyYAML's constructors of tagged values (`!!bool x`, `!!int ''`) fail with errors of any type.
    """
    problems: list[str] = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            problems.append(f"line {line}: aliases (*{event.anchor}) are not allowed; write it out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace(_YAML_TAG, "!!")
            problems.append(f"line {line}: tags ({short}) are not allowed; write the plain value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return [f"line {line}: nested more than {_MAX_DEPTH} deep"]
    return problems


def _misleading(node: yaml.Node, path: str) -> list[str]:
    """What PyYAML would take for something that few mean."""
    if isinstance(node, yaml.ScalarNode) and node.tag in (f"{_YAML_TAG}int", f"{_YAML_TAG}float"):
        if _OTHER_BASE.fullmatch(node.value):
            value = yaml.safe_load(node.value)
            return [f"{path}: {node.value} would be read as {value}; write that, or the number that you mean"]
        return []
    if isinstance(node, yaml.SequenceNode):
        return [problem for item in node.value for problem in _misleading(item, path)]
    if not isinstance(node, yaml.MappingNode):
        return []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        here = f"{path}.{name}" if path else name
        line = key.start_mark.line + 1
        if key.tag == f"{_YAML_TAG}merge":
            problems.append(f"{here}: merge keys (line {line}) are not allowed; write the keys out")
        if name in first_line:
            problems.append(f"{here}: the key stands twice, on lines {first_line[name]} and {line}; keep one")
        first_line.setdefault(name, line)
        problems += _misleading(value, here)
    return problems


def _oversized_numbers(content: Any, path: str) -> list[str]:
    """Whole numbers too long for JSON readers, and for Python to print."""
    if isinstance(content, int):
        return [f"{path}: a whole number has more than {_MAX_BITS} bits"] if content.bit_length() > _MAX_BITS else []
    if isinstance(content, list):
        return [problem for item in content for problem in _oversized_numbers(item, path)]
    problems: list[str] = []
    for key, value in content.items() if isinstance(content, dict) else ():
        large = _oversized_numbers(key, path or "the job")
        problems += large
        if not large:
            problems += _oversized_numbers(value, f"{path}.{key}" if path else str(key))
    return problems
