"""The kinds of `beemesh.io/v1`, VirtualMachine and Function: what their schema cannot say."""

from __future__ import annotations

from collections.abc import Sequence

from services.manifests import quantities, schemas
from services.manifests.documents import Document, violation
from services.manifests.findings import Findings
from services.manifests.lookup import mapping_at, value_at
from services.manifests.paths import Path

SCHEMA = "beemesh.schema.json"
API_VERSION = "beemesh.io/v1"
KINDS = ("VirtualMachine", "Function")


def check(document: Document, findings: Findings) -> None:
    """Adds a finding for each fault of a VirtualMachine or Function."""
    schemas.check(document, SCHEMA, findings)
    if document.kind == "VirtualMachine":
        _check_machine(document, findings)
    else:
        _check_function(document, findings)


def _check_machine(document: Document, findings: Findings) -> None:
    spec = mapping_at(document.body, ("spec",))
    if spec and "image" not in spec and "kernelBoot" not in spec:
        message = "a virtual machine boots from an image or a kernelBoot"
        findings.add(violation(document, ("spec", "image"), message, "REQUIRED_FIELD"))
    if isinstance(spec.get("image"), dict):
        _one_of(document, ("spec", "image"), ("path", "url", "containerDisk"), findings)
        _checksum(document, ("spec", "image"), findings)
    if isinstance(spec.get("readiness"), dict):
        _one_of(document, ("spec", "readiness"), ("console", "tcpPort"), findings)
    for field in ("memory", "disk"):
        _not_zero(document, ("spec", field), findings)


def _check_function(document: Document, findings: Findings) -> None:
    code: Path = ("spec", "code")
    if isinstance(value_at(document.body, code), dict):
        _one_of(document, code, ("inline", "files", "archive", "wasm", "image"), findings)
    for kind in ("archive", "wasm"):
        if isinstance(value_at(document.body, (*code, kind)), dict):
            _one_of(document, (*code, kind), ("url", "path"), findings)
            _checksum(document, (*code, kind), findings)
    _not_zero(document, ("spec", "memory"), findings)
    timeout = value_at(document.body, ("spec", "timeout"))
    if isinstance(timeout, str) and _reads_zero(timeout):
        findings.add(violation(document, ("spec", "timeout"), "must be more than no time", "BAD_VALUE"))


def _one_of(document: Document, path: Path, choices: Sequence[str], findings: Findings) -> None:
    given = [choice for choice in choices if choice in mapping_at(document.body, path)]
    rule = f"needs exactly one of {', '.join(choices)}"
    if not given:
        findings.add(violation(document, path, rule, "REQUIRED_FIELD"))
    for extra in given[1:]:
        message = f"{rule}, here are {' and '.join(given)}"
        findings.add(violation(document, (*path, extra), message, "BAD_VALUE", at_key=True))


def _checksum(document: Document, path: Path, findings: Findings) -> None:
    source = mapping_at(document.body, path)
    if "url" in source and "sha256" not in source:
        message = "a url needs a sha256, so that what is fetched is what was meant"
        findings.add(violation(document, (*path, "sha256"), message, "REQUIRED_FIELD"))


def _not_zero(document: Document, path: Path, findings: Findings) -> None:
    size = value_at(document.body, path)
    try:
        zero = isinstance(size, str) and quantities.memory(size) == 0
    except ValueError:
        return
    if zero:
        findings.add(violation(document, path, "must be more than nothing", "BAD_VALUE"))


def _reads_zero(timeout: str) -> bool:
    try:
        return quantities.duration(timeout) == 0
    except ValueError:
        return False
