"""What pydantic finds wrong in a job, as sentences: the path in the file, what is wrong there, and what is valid."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from pullback.spec.models import JobSpec
from pullback.spec.words import describe, nearest, number_hint, shown, written

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
"""Bounds that are no valid values themselves, so that none is the nearest: the default is told instead."""
_LONGEST_NAME = 100


def explain(error: ValidationError, within: tuple[str, ...] = ()) -> list[str]:
    """What pydantic found wrong, as one sentence a path of a job's file.

    Args:
        error: from validating a job, or the part of one that stands under the path `within`.
        within: that path.
    """
    best: dict[str, tuple[int, str]] = {}
    for detail in error.errors():
        loc = (*within, *detail["loc"])
        path = ".".join(_walk(loc)[0])
        # of a union's several complaints about one value, the one that helps most
        rank = 0 if detail["type"] in _BOUNDS else 1 if detail["type"] == "literal_error" else 2
        if path not in best or rank < best[path][0]:
            best[path] = rank, _sentence(detail, loc)
    return [sentence for _, sentence in best.values()]


def _sentence(detail: Mapping[str, Any], loc: Sequence[str | int]) -> str:
    """One pydantic error as `path: what is wrong; what is allowed`."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    location, model, alternatives = _walk(loc)
    path = ".".join(location) or "the job"
    if kind == "extra_forbidden":
        allowed = list(model.model_fields) if model else []
        return f"{path}: unknown key{nearest(location[-1], allowed) or ';'} allowed here are {', '.join(allowed)}"
    if kind == "missing":
        return f"{path}: this key is required"
    if kind == "union_tag_not_found":
        if not isinstance(value, Mapping):
            return f"{path}: {_TYPES['model_type']} is needed, not {describe(value)}"
        return f"{path}: it needs a `name`, one of {alternatives}"
    if kind in ("literal_error", "union_tag_invalid"):
        given = context.get("tag", value)
        expected = str(context.get("expected", context.get("expected_tags", "")))
        options = re.findall(r"'([^']*)'", expected)
        mixed = bool(alternatives) and kind == "literal_error"
        text_hint = number_hint(value, whole="whole" in alternatives) if mixed else ""
        rest = f" or {alternatives}" if mixed else ""
        listed = f"{', '.join(options)}{rest}"
        return f"{path}: {shown(given)} is not one of {listed}{nearest(str(given), options)}{text_hint}"
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
        field = model.model_fields.get(location[-1]) if model else None
        if key not in _OPEN:
            tip = f"; the nearest valid value is {bound}"
        elif field is None or field.is_required():
            tip = ""
        else:
            tip = f"; the default is {written(field.default)}"
        return f"{path}: must be {words} {bound}, not {shown(value)}{tip}"
    if kind == "string_pattern_mismatch":
        return (
            f"{path}: {shown(value)} may have letters, digits, '_', '.' and '-' only, at most {_LONGEST_NAME}, "
            f"the first a letter or a digit{_clean_name(value)}"
        )
    if kind == "invalid_key":
        return f"{path}: a key must be text, not {describe(value)}; put it in quotes if it is meant"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    return f"{path}: {detail['msg']} (got {describe(value)})"


def _clean_name(value: Any) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value)).strip("-._")[:_LONGEST_NAME]
    return f"; the nearest valid value is {cleaned!r}" if cleaned else ""


def _walk(loc: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None, str]:
    """The path a user wrote for a pydantic location, the model that holds its last key, and that key's plain types.

    Pydantic puts the tags of unions (`distance.lpips.trunk`, `components.constrained-int`) into its locations;
    they are not keys of the file.
    """
    path: list[str] = []
    model: type[BaseModel] | None = JobSpec
    holder: type[BaseModel] | None = None
    choices: dict[str, type[BaseModel]] = {}
    plain = ""
    for part in loc:
        text = str(part)
        if choices and text in choices:
            model, choices = choices[text], {}
            continue
        if model is None:
            break  # the tag of a union of plain types: the path is complete
        path.append(text)
        holder = model
        field = model.model_fields.get(text)
        model, choices, plain = _inside(field.annotation) if field else (None, {}, "")
    return path, holder, plain


def _inside(annotation: Any) -> tuple[type[BaseModel] | None, dict[str, type[BaseModel]], str]:
    """What stands under a field: a model, the models of a tagged union, or the names of plain alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, {}, ""
    options = get_args(annotation) if get_origin(annotation) in (Union, type(int | str)) else ()
    tagged = {part.tag: _base(option) for option in options for part in get_args(option) if isinstance(part, Tag)}
    if tagged:
        return None, tagged, " or ".join(repr(tag) for tag in tagged)
    names = {int: "a whole number", float: "a number"}
    plain = [names[kind] for kind in (_base(option) for option in options) if kind in names]
    return None, {}, " or ".join(plain)


def _base(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
