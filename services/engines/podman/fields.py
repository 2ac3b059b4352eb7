"""Finds all that engine podman cannot honour in a manifest and a config, with its path and line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.engines.engine import Config, Issue, Severity
from services.engines.podman import references
from services.engines.podman.findings import HOST_ACCESS_DENIED, IGNORED_FIELD, UNSUPPORTED_FIELD, Found, found
from services.engines.podman.policy import KINDS, TREES, Each, Guarded, Ignored, Only, Rule, Whole
from services.manifests import Document, Manifest, Path

_EMPTY: tuple[object, ...] = ("", [], {})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """What this node lets workloads do."""

    host_access: bool = False
    """The host's network, paths and all capabilities, and privileged containers."""


def check(manifest: Manifest, config: Config, policy: NodePolicy | None = None) -> list[Issue]:
    """Every field, kind, config entry and option that would be dropped or cannot work."""
    allowed = policy or NodePolicy()
    return [*_documents(manifest, config, allowed), *_config(config)]


def _documents(manifest: Manifest, config: Config, policy: NodePolicy) -> Iterator[Issue]:
    for document in manifest.documents:
        if document.kind not in KINDS:
            message = f"kind {document.kind} is not run by engine podman; it runs {', '.join(KINDS)}"
            yield found(document, ("kind",), message, "UNSUPPORTED_KIND").issue()
            continue
        for finding in _outside(document, (), document.body, TREES[document.kind]):
            if finding.reason != HOST_ACCESS_DENIED or not policy.host_access:
                yield finding.issue()
    for finding in references.check(manifest, config):
        yield finding.issue()


def _outside(document: Document, path: Path, value: object, rule: Rule) -> Iterator[Found]:
    """What is below `path` and the tree does not have; what is empty asks for nothing."""
    match rule:
        case Whole():
            return
        case Each(rule=each):
            for index, item in enumerate(value if isinstance(value, list) else ()):
                yield from _outside(document, (*path, index), item, each)
        case Only() | Ignored() | Guarded():
            if value not in _EMPTY and value not in rule.values:
                yield _not_allowed(document, path, value, rule)
        case _ if isinstance(value, list):
            for index, item in enumerate(value):
                yield from _outside(document, (*path, index), item, rule)
        case _ if isinstance(value, dict):
            for key, below in value.items():
                if key in rule:
                    yield from _outside(document, (*path, key), below, rule[key])
                elif below not in _EMPTY:
                    yield found(document, (*path, key), f"{key} is not honoured by engine podman", UNSUPPORTED_FIELD)


def _not_allowed(document: Document, path: Path, value: object, rule: Only | Ignored | Guarded) -> Found:
    if isinstance(rule, Ignored):
        message = f"{path[-1]} has no effect on a single node and is ignored"
        return found(document, path, message, IGNORED_FIELD, severity=Severity.WARNING)
    if isinstance(rule, Guarded):
        message = f"{path[-1]} reaches for the machine itself, which this node's policy does not grant"
        return found(document, path, message, HOST_ACCESS_DENIED)
    allowed = " or ".join(str(known) for known in rule.values)
    return found(document, path, f"{value!r} is not honoured by engine podman; only {allowed} is", UNSUPPORTED_FIELD)


def _config(config: Config) -> Iterator[Issue]:
    for name in config.engine_options:
        yield Issue(
            severity=Severity.ERROR,
            field_path=f'config.engine_options["{name[:80]}"]',
            reason="UNKNOWN_OPTION",
            message="engine podman has no options",
        )
    if config.resources.storage_bytes is not None:
        yield Issue(
            severity=Severity.ERROR,
            field_path="config.resources.storage_bytes",
            reason="UNSUPPORTED_FIELD",
            message="engine podman cannot limit the storage of a container",
        )
