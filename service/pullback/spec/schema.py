"""The JSON schema of a job, with the options of every plug-in that can be loaded."""

from typing import Any

from pullback.spec.job_file import KINDS

_REFERENCE = "#/$defs/"


def job_schema(kind: str | None = None) -> dict[str, Any]:
    """Return the schema of a job of one kind, or of any kind, without references to other schemas.

    Imports every distance, statistic and application.
    """
    if kind is None:
        return {"oneOf": [job_schema(each) for each in KINDS]}
    model = KINDS[kind]
    schema = model.model_json_schema()
    content: dict[str, Any] = _inlined({key: value for key, value in schema.items() if key != "$defs"}, schema)
    for section in model.bare_names:
        content["properties"][section] = _or_name(content["properties"][section])
    return content


def _inlined(part: Any, schema: dict[str, Any]) -> Any:
    """Return a part of a schema with each reference replaced by its target."""
    if isinstance(part, list):
        return [_inlined(each, schema) for each in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REFERENCE):
        beside = {key: value for key, value in part.items() if key != "$ref"}
        return {**_inlined(schema["$defs"][reference.removeprefix(_REFERENCE)], schema), **beside}
    return {key: _inlined(value, schema) for key, value in part.items()}


def _or_name(section: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section that may also be a bare name."""
    options = section.get("anyOf", [section])
    if any(option.get("type") == "string" for option in options):
        return section
    described = {key: value for key, value in section.items() if key in ("description", "default")}
    return {"anyOf": [{"type": "string"}, *options], **described}
