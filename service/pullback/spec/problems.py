"""Turns pydantic's errors about a job into sentences with the path in the file, the problem, and the valid values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pullback.errors import PluginError
from pullback.spec.job import NAME_PATTERN
from pullback.spec.messages import describe, nearest, number_hint, shown, written
from pullback.spec.plugin_field import PluginField, PluginMapping, field_of
from pullback.spec.sweep import JobSpec

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "greater than"),
    "less_than": ("lt", "less than"),
}
_OPEN = ("gt", "lt")
"""Exclusive bounds. They have no nearest valid value, so the message suggests the default."""
_LONGEST_NAME = 100


def explain(error: ValidationError, within: tuple[str, ...] = (), model: type[BaseModel] = JobSpec) -> list[str]:
    """Write what pydantic found wrong, as one sentence for each path of a job's file.

    Args:
        error: raised when a job was validated, or the part of a job that stands under the path `within`.
        within: that path.
        model: the model of the job, or of its part at the path `within`.
    """
    best: dict[str, tuple[int, str]] = {}
    for detail in error.errors(include_url=False):
        loc = (*within, *detail["loc"])
        path = ".".join(_walk(loc, model).path)
        # A union complains once for each alternative about one value: keep the complaint that helps most.
        rank = 0 if detail["type"] in _BOUNDS else 1 if detail["type"] == "literal_error" else 2
        if path not in best or rank < best[path][0]:
            best[path] = rank, _sentence(detail, _walk(loc, model))
    return [sentence for _, sentence in best.values()]


def _sentence(detail: Mapping[str, Any], at: "_Place") -> str:
    """One pydantic error as `path: what is wrong; what is allowed`."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    path = ".".join(at.path) or "the job"
    if kind == "extra_forbidden":
        allowed = list(_fields_of(at.holder)) if at.holder else []
        listed = f"allowed here are {', '.join(allowed)}" if allowed else "no keys are allowed here"
        return f"{path}: unknown key{nearest(at.path[-1], allowed) or ';'} {listed}"
    if kind == "missing":
        return f"{path}: this key is required"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        hint = number_hint(value, whole="whole" in at.plain) if at.plain else ""
        rest = f" or {at.plain}" if at.plain else ""
        return f"{path}: {shown(value)} is not one of {', '.join(options)}{rest}{nearest(str(value), options)}{hint}"
    if kind == "string_too_short":
        return f"{path}: it must not be empty"
    if kind in _TYPES:
        hint = number_hint(value, whole=kind.startswith("int")) if kind.startswith(("int", "float")) else ""
        if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
            hint = f"; put it in quotes, {str(value)!r}, if it is meant"
        return f"{path}: {_TYPES[kind]} is needed, not {describe(value)}{hint}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = written(context[key])
        if key not in _OPEN:
            tip = f"; the nearest valid value is {bound}"
        elif at.field is None or at.field.is_required():
            tip = ""
        else:
            tip = f"; the default is {written(at.field.default)}"
        return f"{path}: must be {words} {bound}, not {shown(value)}{tip}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        return (
            f"{path}: {shown(value)} is not a valid name: at most {_LONGEST_NAME} letters, digits, '_', '.' and '-', "
            f"beginning with a letter or a digit{_clean_name(value)}"
        )
    if kind == "invalid_key":
        key = "null" if value is None else str(value).lower()
        path = ".".join([*at.path[:-1], key])
        return f"{path}: a key must be text, not {key}; put it in quotes if it is meant"
    if kind == "string_unicode":
        return f"{path}: {shown(value)} holds half of a surrogate pair, which is not a character"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    return f"{path}: {detail['msg']} (got {describe(value)})"


def _clean_name(value: Any) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value)).strip("-._")[:_LONGEST_NAME]
    return f"; the nearest valid value is {cleaned!r}" if cleaned else ""


@dataclass
class _Place:
    """The place of an error in a job.

    Attributes:
        path: the keys that the user wrote.
        holder: the model that has the last key; None if it is not known.
        field: the field of that key; None if the model has no such field.
        plain: the types that the key takes besides words, such as `a whole number`.
    """

    path: list[str]
    holder: type[BaseModel] | None = None
    field: FieldInfo | None = None
    plain: str = ""


def _walk(loc: Sequence[str | int], model: type[BaseModel]) -> _Place:
    """Find the place in a job's file for a location in an error of pydantic.

    Locations also have parts that are not keys of the file: the name of a plug-in (`distance.lpips.trunk`) and the type
    of an alternative (`components.constrained-int`).
    """
    at = _Place([])
    inside: type[BaseModel] | None = model
    plugins: PluginField | None = None
    for part in loc:
        text = str(part)
        if plugins is not None:
            if isinstance(plugins, PluginMapping):
                at.path.append(text)
                at.holder = at.field = None
            inside, plugins = _options_of(plugins, text), None
            continue
        if inside is None:
            break  # the type of an alternative: the path is complete
        at.path.append(text)
        at.holder, at.field = inside, _fields_of(inside).get(text)
        inside, plugins, at.plain = (None, None, "") if at.field is None else _contents(at.field)
    return at


def _fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields by their keys in a job."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _options_of(plugins: PluginField, name: str) -> type[BaseModel] | None:
    try:
        return plugins.model(name)
    except (PluginError, ModuleNotFoundError):
        return None


def _contents(field: FieldInfo) -> tuple[type[BaseModel] | None, PluginField | None, str]:
    """Return what a field holds: a model, plug-ins, or the names of plain alternatives."""
    plugins = field_of(field.metadata)
    if plugins is not None:
        return None, plugins, ""
    annotation = field.annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, type(int | str)) else (annotation,)
    bare = [_base(option) for option in options]
    model = next((each for each in bare if isinstance(each, type) and issubclass(each, BaseModel)), None)
    names = {int: "a whole number", float: "a number"}
    return model, None, " or ".join(names[each] for each in bare if each in names) if len(bare) > 1 else ""


def _base(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
