"""Options as text: their types, values and help texts, for the command line and for queries over HTTP."""

import types
from collections.abc import Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from pullback.errors import SpecError

_PLAIN = (bool, int, float, str)


def plain_type(info: FieldInfo) -> type | None:
    """Return the type that an option's text is converted to: bool, int, float or str; None if the text is YAML.

    An option that may also be None has the type of its other values. One of several words is a `str`.
    """
    annotation: Any = info.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not type(None)]
        annotation = others[0] if len(others) == 1 else None
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal and all(isinstance(each, str) for each in get_args(annotation)):
        return str
    return next((plain for plain in _PLAIN if annotation is plain), None)


def read_text(name: str, info: FieldInfo, value: Any, source: str = "the options") -> Any:
    """Return an option's value, read as YAML if it is text and the option has no plain type.

    Args:
        name: the option, for the message.
        info: its field.
        value: of the type that `plain_type` returns, else text.
        source: where the value comes from, for the message.

    Raises:
        SpecError: the text is not YAML.
    """
    if not isinstance(value, str) or plain_type(info) is not None:
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError([f"{name}: {value!r} is not YAML"], source) from None


def help_text(info: FieldInfo, owners: Collection[str] = ()) -> str:
    """Return the help of an option: its description, its owners if several share it, its choices and its default."""
    words = " ".join((info.description or "").split())
    listed = f" [{', '.join(owners)}]" if owners else ""
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, types.UnionType) else (info.annotation,)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    allowed = f" One of {', '.join(map(str, choices))}." if choices else ""
    if info.is_required():
        return f"{words}{listed}{allowed} Required.".strip()
    value = info.get_default(call_default_factory=True)
    default = "" if value is None else f" Default: {_written(value)}."
    return f"{words}{listed}{allowed}{default}".strip()


def _written(value: Any) -> str:
    """Return a default value as a user would write it."""
    if isinstance(value, tuple):
        return yaml.safe_dump(list(value), default_flow_style=True).strip()
    return str(value).lower() if isinstance(value, bool) else str(value)
