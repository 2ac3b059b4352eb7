"""What a deploy must pass before anything is touched: ids, the manifest's text, and what the engine can honour."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec

from services import manifests
from services.engines.engine import Config, Engine, Issue, Severity
from services.errors import BeemeshError, FailedPrecondition, FieldViolation, InvalidArgument
from services.identity import canonical_digest, check_deployment_id
from services.manifests import Format, Manifest
from services.manifests.resources import check_size, scaled_to_zero

WORKLOAD_ID_MAX = 57
"""So that `<workload_id>-<n>` stays within the 63 characters of a DNS label."""

UNKNOWN_OPTION = "UNKNOWN_OPTION"
"""The reason of an issue about an engine option that the engine does not document: never merely a warning."""

_REMEMBERED, _REMEMBERED_CHARACTERS = 64, 4096
"""Texts that were read last, and how long one may be: what they take is at most some megabytes."""

_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOrder:
    """One call of deploy, as it was asked."""

    workload_id: str
    manifest_id: str
    text: str
    format: Format | None = None
    """What the caller believes it is; None: found out."""
    config: Config = field(default_factory=Config)
    allow_replace: bool = False
    etag: str = ""
    validate_only: bool = False
    request_id: str = ""
    lenient: bool = False
    """Fields that the engine would drop are returned as issues instead of refused (ValidationMode WARN)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A deploy that may go on."""

    order: DeployOrder
    manifest: Manifest
    digest: str
    """The canonical digest, of the manifest and the config."""
    issues: tuple[Issue, ...]
    scaled_to_zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What validation found."""

    valid: bool
    format: Format | None = None
    canonical_digest: str = ""
    issues: tuple[Issue, ...] = ()
    manifest: Manifest | None = None
    """Where the text is one."""


def check_workload_id(text: str) -> str:
    """Return `text` if it can name a workload (DNS-1123 label of at most 57 characters); raise InvalidArgument."""
    if len(text) > WORKLOAD_ID_MAX or not _DNS_1123.fullmatch(text):
        message = f"expected a DNS-1123 label of at most {WORKLOAD_ID_MAX} characters" if text else "is required"
        raise _bad_field("workload_id", f"workload_id {text[:80]!r}: {message}", message, reason="BAD_WORKLOAD_ID")
    return text


def admit(order: DeployOrder, engine: Engine) -> Admitted:
    """Check all that can be checked without asking the backend; raises InvalidArgument and FailedPrecondition."""
    check_workload_id(order.workload_id)
    check_deployment_id(order.manifest_id, field="manifest_id")
    manifest = _read(order.text, order.format)
    check_size(manifest, replicas=order.config.replicas)
    _check_language(manifest, engine)
    issues = _lifted(engine.check(manifest, order.config), lenient=order.lenient)
    _refuse(engine, issues)
    return Admitted(
        order=order,
        manifest=manifest,
        digest=canonical_digest(manifest.canonical_digest, config_json(order.config)),
        issues=issues,
        scaled_to_zero=scaled_to_zero(manifest, replicas=order.config.replicas),
    )


def validate(
    text: str, expected: Format | None, engine: Engine, *, lenient: bool, config: Config | None = None
) -> Verdict:
    """All findings about a text and a config, errors included, as issues; raises InvalidArgument when there is no text.

    What `lenient` lifts is a warning.
    """
    _require_text(text)
    try:
        manifest = _read(text, expected)
    except BeemeshError as error:
        return Verdict(valid=False, issues=_as_issues(error))
    try:
        check_size(manifest, replicas=config.replicas if config else None)
        _check_language(manifest, engine)
        issues = _lifted(engine.check(manifest, config or Config()), lenient=lenient)
    except BeemeshError as error:
        issues = _as_issues(error)
    return Verdict(
        valid=not any(issue.severity is Severity.ERROR for issue in issues),
        format=manifest.format,
        canonical_digest=manifest.canonical_digest,
        issues=issues,
        manifest=manifest,
    )


async def examined(verdict: Verdict, engine: Engine, config: Config | None = None) -> Verdict:
    """The verdict on what seemed to be valid, once the engine's own tools have read it."""
    if not verdict.valid or verdict.manifest is None:
        return verdict
    try:
        await engine.examine(verdict.manifest, config or Config())
    except (InvalidArgument, FailedPrecondition) as error:
        return replace(verdict, valid=False, issues=(*verdict.issues, *_as_issues(error)))
    return verdict


def config_json(config: Config) -> dict[str, object]:
    """The config as plain data; what is unset or empty is left out."""
    plain: dict[str, object] = msgspec.to_builtins(config)
    plain["resources"] = {
        key: value for key, value in msgspec.to_builtins(config.resources).items() if value is not None
    }
    return {key: value for key, value in plain.items() if value not in (None, {})}


def _require_text(text: str) -> None:
    if not text:
        raise _bad_field("manifest.content", "manifest.content is required", "is required", reason="MANIFEST_REQUIRED")


def _read(text: str, expected: Format | None) -> Manifest:
    _require_text(text)
    manifest = _parse_again(text) if len(text) <= _REMEMBERED_CHARACTERS else manifests.parse(text)
    if expected is not None and expected is not manifest.format:
        message = f"the content is {manifest.format.name}, not {expected.name}"
        raise _bad_field("manifest.format", f"manifest.format: {message}", message, reason="FORMAT_MISMATCH")
    return manifest


@lru_cache(_REMEMBERED)
def _parse_again(text: str) -> Manifest:
    """A text is validated and a moment later deployed: parsing is most of what either costs. Nobody alters a body."""
    return manifests.parse(text)


def _check_language(manifest: Manifest, engine: Engine) -> None:
    info = engine.info
    if manifest.format not in info.formats:
        raise _unsupported_kind(
            engine, manifest.format.name, f"format {manifest.format.name}", sorted(f.name for f in info.formats)
        )
    for kind in manifest.kinds:
        if kind not in info.kinds:
            raise _unsupported_kind(engine, kind, f"kind {kind}", info.kinds)


def _unsupported_kind(engine: Engine, kind: str, what: str, known: Sequence[str]) -> FailedPrecondition:
    return FailedPrecondition(
        f"engine {engine.info.engine} does not run {what}; it runs {', '.join(known)}",
        reason="UNSUPPORTED_KIND",
        metadata={"engine": engine.info.engine, "kind": kind},
    )


def _lifted(issues: Sequence[Issue], *, lenient: bool) -> tuple[Issue, ...]:
    """The findings; a lenient caller takes the loss of a field, but neither nonsense nor what the node forbids."""
    if not lenient:
        return tuple(issues)
    return tuple(
        replace(issue, severity=Severity.WARNING) if issue.reason == "UNSUPPORTED_FIELD" else issue for issue in issues
    )


def _refuse(engine: Engine, issues: Sequence[Issue]) -> None:
    options = [issue for issue in issues if issue.reason == UNKNOWN_OPTION]
    if options:
        raise InvalidArgument(
            f"{options[0].field_path}: {options[0].message}", reason=UNKNOWN_OPTION, violations=_violations(options)
        )
    errors = [issue for issue in issues if issue.severity is Severity.ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise FailedPrecondition(
            f"engine {engine.info.engine} cannot honour {errors[0].field_path}: {errors[0].message}{more}",
            reason=errors[0].reason or "UNSUPPORTED_FIELD",
            metadata={"engine": engine.info.engine},
            violations=_violations(errors),
        )


def _violations(issues: Sequence[Issue]) -> list[FieldViolation]:
    return [
        FieldViolation(
            field_path=issue.field_path,
            message=issue.message,
            reason=issue.reason,
            line=issue.line,
            column=issue.column,
        )
        for issue in issues
    ]


def _as_issues(error: BeemeshError) -> tuple[Issue, ...]:
    if not error.violations:
        return (Issue(severity=Severity.ERROR, field_path="", reason=error.reason, message=error.message),)
    return tuple(
        Issue(
            severity=Severity.ERROR,
            field_path=violation.field_path,
            reason=violation.reason or error.reason,
            message=violation.message,
            line=violation.line,
            column=violation.column,
        )
        for violation in error.violations
    )


def _bad_field(path: str, text: str, message: str, *, reason: str) -> InvalidArgument:
    return InvalidArgument(text, reason=reason, violations=[FieldViolation(field_path=path, message=message)])
