"""Plain, bounded YAML: the subset that a job may use.

PyYAML silently keeps the last of two equal keys, merges mappings (`<<`), expands aliases without bound, and reads 010
as 8 and 1:30 as 90 (YAML 1.1). Here these are problems, reported with their line or path. So are tags (`!!set`),
several documents, oversized files and whole numbers of more than 63 bits.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from pullback.regular_files import NotRegularError, TooLongError, read_regular
from pullback.spec.messages import describe

MAX_BYTES = 64 * 1024
"""Jobs are a few hundred bytes; a file beyond this is not a job."""
_MAX_DEPTH = 20
_MAX_BITS = 63
_YAML_TAG = "tag:yaml.org,2002:"
_OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|.*:.*)")
"""Texts that YAML 1.1 reads as numbers of base 8 or 60, and YAML 1.2 does not."""


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """Read a file into plain Python values, and find every problem of its form.

    Returns:
        The content (None if it cannot be read) and the problems, one sentence each.
    """
    try:
        raw = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        return None, [f"there is no such file; {_other_place(path) or f'the working directory is {Path.cwd()}'}"]
    except IsADirectoryError:
        return None, ["it is a folder, and a job is a YAML file, such as jobs/quickstart.yaml"]
    except TooLongError as error:
        return None, [f"it has {error.size} bytes; a job has at most {MAX_BYTES}"]
    except NotRegularError as error:
        return None, [f"{error.strerror}: write the job into a file and name that"]
    except OSError as error:
        return None, [f"it cannot be read: {error.strerror}"]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, [f"it is not UTF-8 text: {error.reason} at byte {error.start}"]
    return parse_yaml(text)


def _other_place(path: Path) -> str:
    """Return `did you mean jobs/eyes.yaml?` if a job of that name exists there, else an empty string."""
    names = [path.name] if path.suffix in (".yaml", ".yml") else [f"{path.name}.yaml", f"{path.name}.yml"]
    others = [folder / name for name in names for folder in (path.parent, path.parent / "jobs", Path("jobs"))]
    found = next((other for other in others if other != path and _is_file(other)), None)
    return f"did you mean {found}?" if found else ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, or this user may not enter the folder
        return False


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """Read a text; see `read_yaml`."""
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
        context = f"{error.context}, " if (error.problem or "").startswith("but ") else ""
        return None, [f"{where}not valid YAML: {context}{error.problem}"]
    except (yaml.YAMLError, ValueError) as error:
        return None, [f"not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(content, dict):
        return None, [f"the job must be a mapping of keys to values, not {describe(content)}"]
    oversized = _oversized_numbers(content, "")
    return (None, problems + oversized) if oversized else (content, problems)


def _forbidden(text: str) -> list[str]:
    """Find aliases, tags and deep nesting in the event stream, before anything is built from it.

    PyYAML's constructors of tagged values (`!!bool x`, `!!int ''`) fail with errors of any type.
    """
    problems: list[str] = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            problems.append(f"line {line}: aliases (*{event.anchor}) are not allowed; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace(_YAML_TAG, "!!")
            problems.append(f"line {line}: tags ({short}) are not allowed; write the plain value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return [f"line {line}: nested more than {_MAX_DEPTH} levels deep"]
    return problems


def _misleading(node: yaml.Node, path: str) -> list[str]:
    """Find values that PyYAML reads differently from what most people expect."""
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
            problems.append(f"{here}: the key appears twice, on lines {first_line[name]} and {line}; keep one")
        first_line.setdefault(name, line)
        problems += _misleading(value, here)
    return problems


def _oversized_numbers(content: Any, path: str) -> list[str]:
    """Find whole numbers that are too long for readers of JSON and for Python to print."""
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
