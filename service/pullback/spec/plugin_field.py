"""Fields of a job whose options belong to a plug-in: a distance, an application, the statistics of an analysis.

The plug-in's module has the model of its options. It is found through its registry by the name in the job, so a
plug-in brings its own part of the job's schema and of its error messages. Only the plug-ins that a job names are
imported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_serializer,
)
from pydantic_core import InitErrorDetails, core_schema

from pullback.errors import PluginError
from pullback.plugins import Registry
from pullback.spec.messages import describe, nearest, shown
from pullback.spec.options import Options


@dataclass(frozen=True)
class PluginOptions:
    """Annotation of a field that holds the options of one plug-in, as `{name: ..., <its options>}`.

    Attributes:
        registry: where the plug-in is found.
        base: the class of the field's values; a plug-in's `Options` must derive from it.
        other: models for names that are not in the registry; the key is how a message writes such a name.
        is_other: returns the key into `other` for such a name, and None for a name of the registry.
    """

    registry: Registry
    base: type[Options]
    other: Mapping[str, type[Options]]
    is_other: Callable[[str], str | None]

    def names(self) -> list[str]:
        """Return every way to write the plug-in's name, as messages list it."""
        return [*self.registry.names(), *self.other]

    def model(self, name: str) -> type[Options]:
        """Return the options model of a plug-in.

        Raises:
            PluginError: there is no such plug-in, or it cannot be used.
        """
        model = self.other.get(name) or self.registry.options(name)
        if not issubclass(model, self.base):
            raise PluginError(
                f"the {self.registry.kind} {name!r} cannot be used: its Options must derive from {self.base.__name__}"
            )
        found: type[Options] = model
        return found

    def validate(self, value: Any, info: ValidationInfo) -> Any:
        """Read the section of a job into the options of the plug-in that it names."""
        if isinstance(value, self._values):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"a mapping of keys to values is needed, not {describe(value)}")
        name = value.get("name")
        if name is None:
            raise ValueError(f"it needs a `name`, one of {', '.join(self.names())}")
        if not isinstance(name, str):
            raise ValueError(f"the `name` must be text, one of {', '.join(self.names())}, not {describe(name)}")
        tag = self.is_other(name) or name
        return self._read(_model_of(self, tag), tag, value, info)

    def _read(self, model: type[Options], tag: str, value: Mapping[str, Any], info: ValidationInfo) -> Any:
        return _validated(model, tag, value, info)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate with `validate`; serialise as the model that was found."""
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe one alternative for each plug-in that can be loaded."""
        bare = {"type": "string", "description": f"the name of a {self.registry.kind}, with its default options"}
        return {"anyOf": [bare, *(_named(self, name, handler) for name in _usable(self))]}

    @property
    def _values(self) -> type[BaseModel]:
        """The class of the field's values."""
        return self.base


class Choice(BaseModel):
    """A plug-in and its options, if the options have no `name` themselves. In a job it is flat: `{name: ..., ...}`."""

    model_config = ConfigDict(frozen=True)

    name: str
    options: SerializeAsAny[Options]

    @model_serializer
    def _flat(self, info: SerializationInfo) -> dict[str, Any]:
        mode = "json" if info.mode == "json" else "python"
        options = self.options.model_dump(
            mode=mode, exclude_defaults=info.exclude_defaults, exclude_none=info.exclude_none
        )
        return {"name": self.name, **options}


@dataclass(frozen=True)
class PluginChoice(PluginOptions):
    """As `PluginOptions`, for plug-ins whose options have no `name`. The field's values are `Choice`s."""

    base: type[Options] = Options
    other: Mapping[str, type[Options]] = field(default_factory=dict)
    is_other: Callable[[str], str | None] = lambda name: None

    def _read(self, model: type[Options], tag: str, value: Mapping[str, Any], info: ValidationInfo) -> Any:
        options = {key: each for key, each in value.items() if key != "name"}
        return Choice(name=tag, options=_validated(model, tag, options, info))

    @property
    def _values(self) -> type[BaseModel]:
        return Choice


@dataclass(frozen=True)
class PluginMapping:
    """Annotation of a field that maps names of plug-ins to their options.

    Attributes:
        registry: where the plug-ins are found.
    """

    registry: Registry

    def names(self) -> list[str]:
        """Return the names of the registry."""
        return self.registry.names()

    def model(self, name: str) -> type[Options]:
        """Return the options model of a plug-in; raises PluginError if there is no such plug-in."""
        found: type[Options] = self.registry.options(name)
        return found

    def validate(self, value: Any, info: ValidationInfo) -> dict[str, Options]:
        """Read a mapping of names to options, or a list of names, which take their default options."""
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            value = {name if isinstance(name, str) else shown(name): {} for name in value}
        if not isinstance(value, Mapping) or not value:
            raise ValueError(
                f"names of {self.registry.kind}s with their options are needed, not {describe(value)}; "
                f"there are {', '.join(self.names())}"
            )
        found: dict[str, Options] = {}
        problems: list[InitErrorDetails] = []
        for key, options in value.items():
            name = str(key)
            try:
                model = _model_of(self, name)
                given = {} if options is None else options
                found[name] = given if isinstance(given, model) else _validated(model, name, given, info)
            except ValidationError as error:
                problems += _details(error)
            except ValueError as error:
                problems.append({"type": "value_error", "loc": (name,), "input": options, "ctx": {"error": error}})
        if problems:
            raise ValidationError.from_exception_data("statistics", problems)
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate with `validate`; serialise as the models that were found."""
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe one property for each plug-in that can be loaded."""
        properties = {name: handler(self.model(name).__pydantic_core_schema__) for name in _usable(self)}
        mapping = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
        names = {"type": "array", "items": {"enum": sorted(properties)}, "minItems": 1}
        return {"anyOf": [mapping, names]}


PluginField = PluginOptions | PluginMapping


def field_of(metadata: list[Any]) -> PluginField | None:
    """Return the plug-in annotation in the metadata of a model's field; None if it has none."""
    return next((mark for mark in metadata if isinstance(mark, PluginOptions | PluginMapping)), None)


def _model_of(wanted: PluginField, name: str) -> type[Options]:
    """The options model of a plug-in that a job names; an unknown name is a ValueError with the nearest one."""
    if name not in wanted.names():
        listed = f"{', '.join(wanted.names()) or 'nothing that is installed'}"
        raise ValueError(f"{shown(name)} is not one of {listed}{nearest(name, wanted.names())}")
    try:
        return wanted.model(name)
    except PluginError as error:
        raise ValueError(str(error)) from error


def _validated(model: type[Options], tag: str, value: Any, info: ValidationInfo) -> Options:
    """Validate with a plug-in's model; `tag` begins the location of each error, so that messages find the model."""
    try:
        return model.model_validate(value, context=info.context)
    except ValidationError as error:
        raise ValidationError.from_exception_data(model.__name__, _details(error, tag)) from None


def _details(error: ValidationError, *before: str) -> list[InitErrorDetails]:
    return [
        InitErrorDetails(
            type=detail["type"], loc=(*before, *detail["loc"]), input=detail["input"], ctx=detail.get("ctx", {})
        )
        for detail in error.errors(include_url=False)
    ]


def _usable(wanted: PluginField) -> list[str]:
    """The names whose plug-ins can be loaded."""

    def loads(name: str) -> bool:
        try:
            wanted.model(name)
        except (PluginError, ModuleNotFoundError):
            return False
        return True

    return [name for name in wanted.names() if loads(name)]


def _named(wanted: PluginOptions, name: str, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """The JSON schema of a plug-in's options together with its name."""
    found = handler.resolve_ref_schema(handler(wanted.model(name).__pydantic_core_schema__))
    named = {"type": "string"} if name in wanted.other else {"const": name}
    properties = {"name": named, **{key: value for key, value in found.get("properties", {}).items() if key != "name"}}
    required = ["name", *(key for key in found.get("required", ()) if key != "name")]
    return {**found, "properties": properties, "required": required}
