"""Command-line options that follow from the `Options` of a plug-in."""

from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from pullback.spec.option_text import help_text, plain_type, read_text
from pullback.spec.options import Options

_PREFIX = "option_"
"""Begins the names of the parameters, so that an option may have any name."""


def option_parameters(model: type[Options], taken: Collection[str] = (), prefix: str = "") -> list[Parameter]:
    """Return a keyword parameter, as typer reads it, for each field of an options model.

    Args:
        model: the options of a plug-in.
        taken: flags that the command has already, such as `--snapshot`.
        prefix: begins the flag of a field whose name is taken.
    """
    parameters = []
    for name, field in model.model_fields.items():
        free = flag_of(name) not in taken
        flag = flag_of(name if free else f"{prefix}_{name}")
        parameters.append(option_parameter(f"{_PREFIX}{name}", flag, field, help_text(field), required=True))
    return parameters


def option_parameter(
    name: str,
    flag: str,
    field: FieldInfo,
    about: str,
    callback: Callable[..., Any] | None = None,
    required: bool = False,
) -> Parameter:
    """Return a keyword parameter, as typer reads it, for one field of an options model.

    Args:
        name: of the parameter.
        flag: of the command line, such as `--draws`. A boolean field also has a flag for false, `--no-draws`.
        field: the field.
        about: the help text.
        callback: called with the context and the value.
        required: whether the command needs a value if the field has no default.
    """
    kind = plain_type(field) or str
    negative = f"/--no-{flag[2:]}" if kind is bool else ""
    option = typer.Option(f"{flag}{negative}", help=about, show_default=False, callback=callback)
    if required and field.is_required():
        return Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def flag_of(name: str) -> str:
    """Return the flag of an option."""
    return f"--{name.replace('_', '-')}"


def given_options(model: type[Options], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the options that a command was given, by the names of the model's fields.

    Args:
        model: the options of a plug-in.
        values: the values of the parameters from `option_parameters`; None stands for an option that was not given.
        source: what the command is called in an error.

    Raises:
        SpecError: a value is not YAML where YAML is needed.
    """
    given = {name: values.get(f"{_PREFIX}{name}") for name in model.model_fields}
    return {
        name: read_text(name, model.model_fields[name], value, source)
        for name, value in given.items()
        if value is not None
    }
