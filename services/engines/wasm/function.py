"""A Function's manifest as this engine reads it, and what of one it cannot honour. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.engines.admission import UNKNOWN_OPTION
from services.engines.engine import Config, Issue, Severity
from services.errors import FailedPrecondition, FieldViolation
from services.manifests import Document, Manifest, Path, quantities, violation

PYTHON_MINOR = 14
"""Python 3.14 is what componentize-py bundles; the manifest's version is a minimum."""
RUNTIMES = ("python:3.0 to python:3.14", "javascript", "wasm")
"""As a person reads them."""

MEMORY_DEFAULT = 128 << 20
MEMORY_MIN = 64 << 20
"""Of a Python function: an interpreter alone takes half of it."""
MEMORY_MIN_JAVASCRIPT = 16 << 20
MEMORY_MAX = 4 << 30
"""What 32-bit WebAssembly can address."""
TIMEOUT_DEFAULT = 30.0
TIMEOUT_MAX = 900.0
CONCURRENCY_DEFAULT = 4
CONCURRENCY_MAX = 64

_PYTHON = re.compile(r"python(?::3(?:\.([0-9]{1,3}))?(?:\.[0-9]{1,3})?)?")
_HANDLER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")

_SPEC: Path = ("spec",)
_CODE: Path = ("spec", "code")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """One function."""

    name: str
    runtime: str
    """What runs it: `python:3.14`, `javascript` or `wasm`."""
    handler: str
    memory_bytes: int
    timeout: float
    """Seconds of one call."""
    concurrency: int
    """Calls at the same time, each in an instance of its own."""
    env: Mapping[str, str]
    http_path: str | None = None
    """Where the HTTP trigger answers; None: there is none."""
    http_port: int = 0
    """0: a free one."""

    @property
    def is_python(self) -> bool:
        """Whether the generic Python runtime runs it."""
        return self.runtime not in ("javascript", "wasm")


def read(manifest: Manifest, config: Config) -> FunctionSpec:
    """The function of a manifest in which `check` finds no error."""
    document = manifest.primary
    spec: Mapping[str, Any] = document.body["spec"]
    asked = config.resources.memory_bytes or MEMORY_DEFAULT
    trigger = spec.get("trigger")
    http = (trigger.get("http") or {}) if trigger else None
    declared = {item["name"]: item.get("value", "") for item in spec.get("env", ())}
    return FunctionSpec(
        name=document.name,
        runtime=spec["runtime"] if spec["runtime"] in ("javascript", "wasm") else f"python:3.{PYTHON_MINOR}",
        handler=spec["handler"],
        memory_bytes=quantities.memory(spec["memory"]) if "memory" in spec else asked,
        timeout=quantities.duration(spec.get("timeout", TIMEOUT_DEFAULT)),
        concurrency=spec.get("concurrency", CONCURRENCY_DEFAULT),
        env={**declared, **config.env},
        http_path=None if http is None else http.get("path", "/"),
        http_port=0 if http is None else http.get("port", 0),
    )


def code_of(manifest: Manifest) -> Mapping[str, Any]:
    """What stands under spec.code; raises FailedPrecondition(CODE_REQUIRED)."""
    document = manifest.primary
    code: Mapping[str, Any] = document.body["spec"].get("code") or {}
    if not code:
        found = violation(document, _CODE, "is required by engine wasm", "CODE_REQUIRED")
        raise FailedPrecondition("spec.code is required by engine wasm", reason="CODE_REQUIRED", violations=[found])
    return code


def check(manifest: Manifest, config: Config) -> list[Issue]:
    """Every field that this engine cannot honour, and what a person should know of the others."""
    document = manifest.primary
    return [*_runtime(document), *_code(document), *_limits(document, config), *_config(config)]


def _runtime(document: Document) -> Iterator[Issue]:
    spec = document.body["spec"]
    runtime, path = str(spec["runtime"]), (*_SPEC, "runtime")
    if runtime == "wasm":
        return
    match = _PYTHON.fullmatch(runtime)
    if runtime == "javascript":
        yield from _handler(document)
        return
    if match is None or int(match[1] or 0) > PYTHON_MINOR:
        message = f"runtime {runtime} is not supported; supported are {', '.join(RUNTIMES[:-1])} and {RUNTIMES[-1]}"
        yield _issue(document, path, message, "UNSUPPORTED_RUNTIME")
        return
    if match[1] is not None and int(match[1]) != PYTHON_MINOR:
        message = f"{runtime} is a minimum: python:3.{PYTHON_MINOR} runs it"
        yield _issue(document, path, message, "RUNTIME_VERSION", severity=Severity.WARNING)
    yield from _handler(document)


def _handler(document: Document) -> Iterator[Issue]:
    if not _HANDLER.fullmatch(document.body["spec"]["handler"]):
        message = "must name a module and a function in it, such as main.process"
        yield _issue(document, (*_SPEC, "handler"), message, "BAD_HANDLER")


def _code(document: Document) -> Iterator[Issue]:
    spec = document.body["spec"]
    code, is_wasm = spec.get("code"), spec["runtime"] == "wasm"
    if not code:
        message = "is required by engine wasm: it can be validated without, not deployed"
        yield _issue(document, _CODE, message, "CODE_REQUIRED", severity=Severity.WARNING)
    elif "image" in code:
        message = "engine wasm takes code inline, as files, as an archive or as wasm; it pulls no images"
        yield _issue(document, (*_CODE, "image"), message, "UNSUPPORTED_CODE")
    elif is_wasm is not ("wasm" in code):
        given, wanted = next(iter(code)), "code.wasm" if is_wasm else "code.inline, code.files or code.archive"
        message = f"runtime {spec['runtime']} needs {wanted}"
        yield _issue(document, (*_CODE, given), message, "CODE_MISMATCH")


def _limits(document: Document, config: Config) -> Iterator[Issue]:
    spec = document.body["spec"]
    has_own = "memory" in spec
    memory = quantities.memory(spec["memory"]) if has_own else config.resources.memory_bytes or MEMORY_DEFAULT
    low = {"wasm": 1 << 16, "javascript": MEMORY_MIN_JAVASCRIPT}.get(spec["runtime"], MEMORY_MIN)
    if not low <= memory <= MEMORY_MAX:
        message = f"a {spec['runtime']} function has between {low >> 10} Ki and {MEMORY_MAX >> 30} Gi of memory"
        if has_own:
            yield _issue(document, (*_SPEC, "memory"), message, "BAD_MEMORY")
        else:
            yield _config_issue("resources.memory_bytes", message, "BAD_MEMORY")
    if quantities.duration(spec.get("timeout", TIMEOUT_DEFAULT)) > TIMEOUT_MAX:
        message = f"a call may take {TIMEOUT_MAX:g}s at most"
        yield _issue(document, (*_SPEC, "timeout"), message, "BAD_TIMEOUT")
    if spec.get("concurrency", 1) > CONCURRENCY_MAX:
        message = f"at most {CONCURRENCY_MAX} calls of a function run at the same time"
        yield _issue(document, (*_SPEC, "concurrency"), message, "BAD_CONCURRENCY")


def _config(config: Config) -> Iterator[Issue]:
    for key in sorted(config.engine_options):
        yield _config_issue(f"engine_options.{key}", "engine wasm has no options", UNKNOWN_OPTION)
    if (config.replicas or 0) > 1:
        yield _config_issue("replicas", "a function is scaled by spec.concurrency", "UNSUPPORTED_FIELD")
    for field in ("cpu_cores", "storage_bytes"):
        if getattr(config.resources, field) is not None:
            message = "engine wasm limits a function's memory and time, not this"
            yield _config_issue(f"resources.{field}", message, "UNSUPPORTED_FIELD")


def _issue(document: Document, path: Path, message: str, reason: str, *, severity: Severity = Severity.ERROR) -> Issue:
    found: FieldViolation = violation(document, path, message, reason)
    return Issue(
        severity=severity,
        field_path=found.field_path,
        reason=reason,
        message=message,
        line=found.line,
        column=found.column,
    )


def _config_issue(field: str, message: str, reason: str) -> Issue:
    return Issue(severity=Severity.ERROR, field_path=f"config.{field}", reason=reason, message=message)
