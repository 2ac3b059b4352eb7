"""What of a Function the wasm engine takes, and what it says of the rest."""

from __future__ import annotations

import pytest

from services.engines.engine import Config, Resources, Severity
from services.engines.wasm import function
from services.errors import FailedPrecondition
from services.manifests import parse
from tests.unit.manifests.samples import FUNCTION

INLINE = FUNCTION + "  code: {inline: 'def process(event): return event'}\n"
EXACT = INLINE.replace("python:3.9", "python:3.14")


def found(text: str, config: Config | None = None) -> list[tuple[str, str, int]]:
    """Severity, reason and line of each issue."""
    issues = function.check(parse(text), config or Config())
    return [(issue.severity.name, issue.reason, issue.line) for issue in issues]


def test_an_older_python_is_a_minimum_and_said_so() -> None:
    """The version that runs it is a warning; the same version is none, and neither is none at all."""
    assert found(INLINE) == [("WARNING", "RUNTIME_VERSION", 8)]
    for runtime in ("python:3.14", "python:3", "python", "python:3.14.0"):
        assert found(INLINE.replace("python:3.9", runtime)) == []


def test_without_code_it_is_valid_and_cannot_be_read_for_a_deploy() -> None:
    """A warning in validation, an error with field and line when it comes to it."""
    assert found(FUNCTION.replace("3.9", "3.14")) == [("WARNING", "CODE_REQUIRED", 8)]
    with pytest.raises(FailedPrecondition, match=r"^spec\.code is required by engine wasm$") as caught:
        function.code_of(parse(FUNCTION))
    assert (caught.value.violations[0].field_path, caught.value.violations[0].line) == ("spec.code", 8)


@pytest.mark.parametrize(
    ("before", "after", "reason", "line"),
    [
        ("runtime: python:3.14", "runtime: python:3.15", "UNSUPPORTED_RUNTIME", 8),
        ("runtime: python:3.14", "runtime: python:2.7", "UNSUPPORTED_RUNTIME", 8),
        ("runtime: python:3.14", "runtime: javascript:5", "UNSUPPORTED_RUNTIME", 8),
        ("runtime: python:3.14", "runtime: nodejs:20", "UNSUPPORTED_RUNTIME", 8),
        ("runtime: python:3.14", "runtime: wasm", "CODE_MISMATCH", 11),
        ("handler: main.process", "handler: process", "BAD_HANDLER", 9),
        ("handler: main.process", "handler: ../main.process", "BAD_HANDLER", 9),
        ("memory: 512Mi", "memory: 8Mi", "BAD_MEMORY", 10),
        ("memory: 512Mi", "memory: 5Gi", "BAD_MEMORY", 10),
        ("memory: 512Mi", "timeout: 1h", "BAD_TIMEOUT", 10),
        ("memory: 512Mi", "concurrency: 100", "BAD_CONCURRENCY", 10),
        ("{inline: 'def process(event): return event'}", "{image: 'localhost/f:1'}", "UNSUPPORTED_CODE", 11),
        ("{inline: 'def process(event): return event'}", "{wasm: {path: /f.wasm}}", "CODE_MISMATCH", 11),
    ],
)
def test_what_cannot_be_honoured_is_an_error_at_its_line(before: str, after: str, reason: str, line: int) -> None:
    """Each field, with what is supported."""
    assert found(EXACT.replace(before, after)) == [("ERROR", reason, line)]


def test_a_refused_runtime_says_what_is_supported() -> None:
    """The message names the runtimes that there are."""
    (issue,) = function.check(parse(EXACT.replace("python:3.14", "ruby")), Config())
    assert "python:3.0 to python:3.14, javascript and wasm" in issue.message


@pytest.mark.parametrize(
    ("config", "reason", "path"),
    [
        (Config(replicas=2), "UNSUPPORTED_FIELD", "config.replicas"),
        (Config(resources=Resources(cpu_cores=1.0)), "UNSUPPORTED_FIELD", "config.resources.cpu_cores"),
        (Config(resources=Resources(storage_bytes=1)), "UNSUPPORTED_FIELD", "config.resources.storage_bytes"),
        (Config(engine_options={"a": "b"}), "UNKNOWN_OPTION", "config.engine_options.a"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_an_error(config: Config, reason: str, path: str) -> None:
    """With its path."""
    (issue,) = function.check(parse(EXACT), config)
    assert (issue.severity, issue.reason, issue.field_path) == (Severity.ERROR, reason, path)


def test_the_config_fills_what_the_manifest_leaves_open() -> None:
    """Memory where it has none, and environment, which it also overrides; too little memory is an error there too."""
    plain = EXACT.replace("  memory: 512Mi\n", "  env: [{name: A, value: b}, {name: B}]\n")
    config = Config(resources=Resources(memory_bytes=256 << 20), env={"A": "c", "C": "d"})
    spec = function.read(parse(plain), config)
    assert (spec.memory_bytes, spec.env) == (256 << 20, {"A": "c", "B": "", "C": "d"})
    assert function.read(parse(plain), Config()).memory_bytes == function.MEMORY_DEFAULT
    assert function.read(parse(EXACT), config).memory_bytes == 512 << 20
    (issue,) = function.check(parse(plain), Config(resources=Resources(memory_bytes=1 << 20)))
    assert (issue.reason, issue.field_path) == ("BAD_MEMORY", "config.resources.memory_bytes")


def test_everything_that_is_said_is_read() -> None:
    """Time, concurrency and the trigger; without a trigger there is none."""
    text = EXACT + "  timeout: 1m30s\n  concurrency: 2\n  trigger: {http: {path: /hook, port: 8080}}\n"
    spec = function.read(parse(text), Config())
    assert (spec.timeout, spec.concurrency, spec.http_path, spec.http_port) == (90.0, 2, "/hook", 8080)
    assert (spec.name, spec.handler, spec.runtime, spec.is_python) == ("processor", "main.process", "python:3.14", True)
    bare = function.read(parse(EXACT), Config())
    assert (bare.timeout, bare.concurrency, bare.http_path) == (30.0, 4, None)
    assert function.read(parse(EXACT + "  trigger: {http: {}}\n"), Config()).http_path == "/"
