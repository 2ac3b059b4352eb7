"""Checks a document against its JSON schema and says what is wrong in words, with path and line."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationErrorKind as Kind

from services.manifests.documents import Document, violation
from services.manifests.findings import MAX_FINDINGS, Findings, shorten
from services.manifests.formats import FORMATS
from services.manifests.paths import Path

Schema = dict[str, Any]

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}
_ALL_ERRORS = 10_000
"""Values in a document, up to which all its schema errors are asked for."""
_NO_VALUES = frozenset({"Secret"})
"""Kinds whose values stay out of messages."""


def check(document: Document, schema_file: str, findings: Findings) -> None:
    """Adds a finding for each way in which the document does not fit the definition of its kind in `schema_file`."""
    validator = _validator(schema_file, document.kind)
    if validator.is_valid(document.body):
        return
    for error in _errors(validator, document):
        if findings.full:
            return
        _report(error, document, definition(schema_file, document.kind), findings)


def _errors(
    validator: jsonschema_rs.Draft202012Validator, document: Document
) -> Iterable[jsonschema_rs.ValidationError]:
    """The document's errors. The validator makes all of them before it gives the first, so a huge one gets one."""
    if document.root.weight <= _ALL_ERRORS:
        return validator.iter_errors(document.body)
    try:
        validator.validate(document.body)
    except jsonschema_rs.ValidationError as error:
        return [error]
    return []


@functools.cache
def load(schema_file: str) -> Schema:
    """The parsed schema file of this package."""
    schema: Schema = json.loads(files("services.manifests").joinpath(schema_file).read_text("utf-8"))
    return schema


@functools.cache
def definition(schema_file: str, kind: str) -> Schema:
    """The schema of one kind, complete with all definitions it may refer to."""
    return {"$ref": f"#/$defs/{kind}", "$defs": load(schema_file)["$defs"]}


@functools.cache
def _validator(schema_file: str, kind: str) -> jsonschema_rs.Draft202012Validator:
    checks = {name: text_format.check for name, text_format in FORMATS.items()}
    return jsonschema_rs.Draft202012Validator(definition(schema_file, kind), formats=checks, validate_formats=True)


def _report(error: jsonschema_rs.ValidationError, document: Document, schema: Schema, findings: Findings) -> None:
    path: Path = tuple(error.instance_path)
    kind = error.kind
    if isinstance(kind, Kind.AdditionalProperties):
        known = _properties(schema, path)
        for name in kind.unexpected[:MAX_FINDINGS]:
            message = f"unknown field {shorten(name)}{_suggestion(name, known)}"
            findings.add(violation(document, (*path, name), message, "UNKNOWN_FIELD", at_key=True))
    elif isinstance(kind, Kind.Required):
        message = f"required field {shorten(kind.property)} is missing"
        findings.add(violation(document, (*path, kind.property), message, "REQUIRED_FIELD"))
    elif isinstance(kind, Kind.PropertyNames):
        key = str(kind.error.instance)
        message = f"key {shorten(key)} must be {_expected(kind.error.kind)}"
        findings.add(violation(document, (*path, key), message, "BAD_VALUE", at_key=True))
    elif isinstance(kind, Kind.Type):
        expected = " or ".join(_TYPES.get(name, name) for name in kind.types)
        message = f"must be {expected}, is {_type_of(error.instance)}"
        findings.add(violation(document, path, message, "WRONG_TYPE"))
    else:
        shown = "" if document.kind in _NO_VALUES else f", is {shorten(error.instance)}"
        if isinstance(error.instance, dict | list):
            shown = ""
        findings.add(violation(document, path, f"must be {_expected(kind)}{shown}", "BAD_VALUE"))


def _expected(kind: object) -> str:
    match kind:
        case Kind.Enum():
            return "one of " + ", ".join(shorten(option) for option in kind.options)
        case Kind.Constant():
            return shorten(kind.expected_value)
        case Kind.Format():
            text_format = FORMATS.get(kind.format)
            return text_format.expected if text_format else kind.format
        case Kind.Minimum() | Kind.ExclusiveMinimum():
            return f"at least {kind.limit}"
        case Kind.Maximum() | Kind.ExclusiveMaximum():
            return f"at most {kind.limit}"
        case Kind.MinItems() | Kind.MinProperties():
            return "not empty"
        case Kind.MinLength():
            return "not empty"
        case Kind.MaxItems() | Kind.MaxLength() | Kind.MaxProperties():
            return f"at most {kind.limit} long"
    return "different: it does not fit the schema"


def _type_of(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), "something else")


def _suggestion(name: str, known: list[str]) -> str:
    """A hint at the one field that was probably meant."""
    same = [field for field in known if field.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, known, n=1, cutoff=0.75) if len(name) <= 80 else []
    return f'; did you mean "{close[0]}"?' if close else ""


def _properties(schema: Schema, path: Path) -> list[str]:
    """The fields that the schema knows at `path`."""
    current = _resolve(schema, schema)
    for step in path:
        if isinstance(step, int):
            inner = current.get("items", {})
        else:
            inner = current.get("properties", {}).get(step, current.get("additionalProperties", {}))
        current = _resolve(schema, inner)
    return list(current.get("properties", {}))


def _resolve(root: Schema, schema: Schema) -> Schema:
    while reference := schema.get("$ref"):
        schema = root["$defs"][reference.rsplit("/", 1)[-1]]
    return schema
