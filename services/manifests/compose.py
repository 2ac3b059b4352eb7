"""The outer shape of a Compose file: its services and our annotations. Compose itself resolves the rest."""

from __future__ import annotations

import re

from services.manifests.documents import Document, violation
from services.manifests.findings import Findings, shorten
from services.manifests.paths import Path

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SERVICE = re.compile(r"[a-zA-Z0-9._-]+")
_FIELDS = frozenset({"version", "name", "services", "networks", "volumes", "configs", "secrets", "models", "include"})


def check(document: Document, findings: Findings) -> None:
    """Adds a finding for each fault in the outer shape."""
    body = document.body

    def add(path: Path, message: str, reason: str, *, at_key: bool = False) -> None:
        findings.add(violation(document, path, message, reason, at_key=at_key))

    for field in body:
        if field not in _FIELDS and not field.startswith("x-"):
            add((field,), f"unknown field {shorten(field)}", "UNKNOWN_FIELD", at_key=True)
    name = body.get("name")
    if name is not None and not (isinstance(name, str) and ("$" in name or _PROJECT.fullmatch(name))):
        add(("name",), "must be lower-case letters, digits, - or _, beginning with a letter or digit", "BAD_VALUE")
    services = body.get("services")
    if not isinstance(services, dict):
        add(("services",), "must be a mapping of services", "WRONG_TYPE")
    elif not services:
        add(("services",), "must not be empty", "BAD_VALUE")
    else:
        for service, content in services.items():
            if not _SERVICE.fullmatch(service):
                message = "a service's name has letters, digits, ., - and _ only"
                add(("services", service), message, "BAD_VALUE", at_key=True)
            if not isinstance(content, dict):
                add(("services", service), "a service must be a mapping", "WRONG_TYPE")
    _check_extension(body.get("x-beemesh"), document, findings)


def _check_extension(extension: object, document: Document, findings: Findings) -> None:
    def add(path: Path, message: str, reason: str, *, at_key: bool = False) -> None:
        findings.add(violation(document, ("x-beemesh", *path), message, reason, at_key=at_key))

    if extension is None:
        return
    if not isinstance(extension, dict):
        add((), "must be a mapping with the field annotations", "WRONG_TYPE")
        return
    for field in extension.keys() - {"annotations"}:
        add((field,), f'unknown field {shorten(field)}; "annotations" is the only one', "UNKNOWN_FIELD", at_key=True)
    annotations = extension.get("annotations")
    if annotations is None:
        return
    if not isinstance(annotations, dict):
        add(("annotations",), "must be a mapping of text to text", "WRONG_TYPE")
        return
    for key, value in annotations.items():
        if not isinstance(value, str):
            add(("annotations", key), "must be text; quote it", "WRONG_TYPE")
