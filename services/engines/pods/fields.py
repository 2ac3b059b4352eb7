"""Finds all that an engine cannot honour in a manifest and a config, with its path and line. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.engines.engine import Config, Issue, Severity
from services.engines.pods import references
from services.engines.pods.findings import HOST_ACCESS_DENIED, IGNORED_FIELD, UNSUPPORTED_FIELD, Found, found
from services.engines.pods.policy import KINDS, Each, Guarded, Honours, Ignored, Only, Rule, Whole
from services.manifests import Document, Manifest, Path

_EMPTY: tuple[object, ...] = ("", [], {})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """What this node lets workloads do."""

    host_access: bool = False
    """The host's network, paths and all capabilities, and privileged containers."""


def check(manifest: Manifest, config: Config, honours: Honours, policy: NodePolicy | None = None) -> list[Issue]:
    """Every field, kind, config entry and option that would be dropped or cannot work."""
    allowed = policy or NodePolicy()
    return [*_documents(manifest, config, honours, allowed), *_config(config, honours.engine)]


def _documents(manifest: Manifest, config: Config, honours: Honours, policy: NodePolicy) -> Iterator[Issue]:
    for document in manifest.documents:
        if document.kind not in KINDS:
            message = f"kind {document.kind} is not run by engine {honours.engine}; it runs {', '.join(KINDS)}"
            yield found(document, ("kind",), message, "UNSUPPORTED_KIND").issue()
            continue
        for finding in _Reading(document, honours.engine).outside((), document.body, honours.trees[document.kind]):
            if finding.reason != HOST_ACCESS_DENIED or not policy.host_access:
                yield finding.issue()
    for finding in references.check(manifest, config, honours):
        yield finding.issue()


class _Reading:
    """One document, read by one engine."""

    def __init__(self, document: Document, engine: str) -> None:
        self._document = document
        self._engine = engine

    def outside(self, path: Path, value: object, rule: Rule) -> Iterator[Found]:
        """What is below `path` and the tree does not have; what is empty asks for nothing."""
        match rule:
            case Whole():
                return
            case Each(rule=each):
                for index, item in enumerate(value if isinstance(value, list) else ()):
                    yield from self.outside((*path, index), item, each)
            case Only() | Ignored() | Guarded():
                if value not in _EMPTY and value not in rule.values:
                    yield self._not_allowed(path, value, rule)
            case _ if isinstance(value, list):
                for index, item in enumerate(value):
                    yield from self.outside((*path, index), item, rule)
            case _ if isinstance(value, dict):
                for key, below in value.items():
                    if key in rule:
                        yield from self.outside((*path, key), below, rule[key])
                    elif below not in _EMPTY:
                        message = f"{key} is not honoured by engine {self._engine}"
                        yield found(self._document, (*path, key), message, UNSUPPORTED_FIELD)

    def _not_allowed(self, path: Path, value: object, rule: Only | Ignored | Guarded) -> Found:
        if isinstance(rule, Ignored):
            message = f"{path[-1]} has no effect on a single node and is ignored"
            return found(self._document, path, message, IGNORED_FIELD, severity=Severity.WARNING)
        if isinstance(rule, Guarded):
            message = f"{path[-1]} reaches for the machine itself, which this node's policy does not grant"
            return found(self._document, path, message, HOST_ACCESS_DENIED)
        allowed = " or ".join(str(known) for known in rule.values)
        message = f"{value!r} is not honoured by engine {self._engine}; only {allowed} is"
        return found(self._document, path, message, UNSUPPORTED_FIELD)


def _config(config: Config, engine: str) -> Iterator[Issue]:
    for name in config.engine_options:
        yield Issue(
            severity=Severity.ERROR,
            field_path=f'config.engine_options["{name[:80]}"]',
            reason="UNKNOWN_OPTION",
            message=f"engine {engine} has no options",
        )
    if config.resources.storage_bytes is not None:
        yield Issue(
            severity=Severity.ERROR,
            field_path="config.resources.storage_bytes",
            reason="UNSUPPORTED_FIELD",
            message=f"engine {engine} cannot limit the storage of a container",
        )
