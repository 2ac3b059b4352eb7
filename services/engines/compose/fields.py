"""What this node makes of a Compose file: each field that is not simply honoured, by path and line. Pure.

It is applied twice: to the file as it was written, before Compose sees it, and to what Compose made of it, since a
variable may have put there what was not to be seen before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from services.engines.compose import policy
from services.engines.compose.policy import (
    Entries,
    Forbidden,
    Guarded,
    Honoured,
    Ignored,
    Judged,
    Not,
    Only,
    Refused,
    Rule,
    Silent,
    Without,
)
from services.engines.engine import Issue, Severity
from services.engines.pods.labels import LABEL_POD
from services.manifests import Document, Path, violation
from services.manifests.lookup import mapping_at, mappings_in

UNSUPPORTED_FIELD = "UNSUPPORTED_FIELD"
FORBIDDEN_FIELD = "FORBIDDEN_FIELD"
HOST_ACCESS_DENIED = "HOST_ACCESS_DENIED"
IGNORED_FIELD = "IGNORED_FIELD"
REFERENCE_NOT_FOUND = "REFERENCE_NOT_FOUND"
PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"

_EMPTY: tuple[object, ...] = (None, "", [], {})
_SAFE_OPTIONS = frozenset({"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"})
_PATH_STARTS = ("/", ".", "~", "\\")
_VARIABLE = "$"
_OWNER = ("uid", "gid", "mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """What this node lets Compose files do."""

    host_access: bool = False
    """The machine's paths, networks, namespaces, devices and names, all capabilities, privileged containers."""
    file_root: FilePath | None = None
    """The directory below which files may be named: env_file, and the files of secrets and configs; None: nowhere."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to be said about one field."""

    path: Path
    message: str
    reason: str
    severity: Severity = Severity.ERROR

    def issue(self, document: Document) -> Issue:
        """With its line in the text; what only Compose has put there has the line of what it was made from."""
        at = violation(document, self.path, self.message, self.reason, at_key=True)
        return Issue(
            severity=self.severity,
            field_path=at.field_path,
            reason=self.reason,
            message=self.message,
            line=at.line,
            column=at.column,
        )


def check(
    body: Mapping[str, Any], allowed: NodePolicy, variables: Collection[str], rules: Rule = policy.PROJECT
) -> list[Finding]:
    """Every field of a Compose file that is not simply honoured; `variables` are those that the request gives.

    `rules` are the daemon's.
    """
    return [*_Checker(allowed, variables).below((), body, rules), *_owners_of_files(body)]


def _owners_of_files(body: Mapping[str, Any]) -> Iterator[Finding]:
    """A secret or config that is a file of the machine is mounted as it is: Compose drops what is said of its owner."""
    for name in mapping_at(body, ("services",)):
        for kind in ("secrets", "configs"):
            for path, item in mappings_in(body, ("services", name, kind)):
                is_file = "file" in mapping_at(body, (kind, str(item.get("source"))))
                for field in _OWNER if is_file else ():
                    if item.get(field) is not None:
                        message = f"{field} cannot be kept: a file of the machine is mounted with its own"
                        yield Finding((*path, field), message, UNSUPPORTED_FIELD)


class _Checker:
    def __init__(self, allowed: NodePolicy, variables: Collection[str]) -> None:
        self._allowed = allowed
        self._variables = variables
        self._judges: Mapping[str, Callable[[Path, Any], Iterator[Finding]]] = {
            "capabilities": self._capabilities,
            "extends": self._extends,
            "files": self._files,
            "labels": self._labels,
            "mount": self._mount,
            "network_mode": self._network_mode,
            "security_options": self._security_options,
            "variable": self._variable,
        }

    def below(self, path: Path, value: Any, rule: Rule) -> Iterator[Finding]:
        """What is to be said of `value` and all that is in it; what is empty asks for nothing."""
        if value in _EMPTY:
            return
        match rule:
            case Honoured() | Silent():
                return
            case Judged(name=name, fields=fields):
                yield from self._fields(path, value, fields or {}) if fields else ()
                yield from self._judges[name](path, value)
            case Only(values=values, otherwise=otherwise):
                if value not in values and not _is_variable(value):
                    yield from self._said(path, otherwise, f" ({_shown(value)})")
            case Not(prefixes=prefixes, otherwise=otherwise):
                if isinstance(value, str) and value.startswith(prefixes):
                    yield from self._said(path, otherwise, f" ({_shown(value)})")
            case Without(word=word, otherwise=otherwise):
                if word in str(value):
                    yield from self._said(path, otherwise, f" ({_shown(value)})")
            case Entries():
                yield from self._entries(path, value, rule)
            case Ignored() | Refused() | Forbidden() | Guarded():
                yield from self._said(path, rule)
            case _:
                yield from self._fields(path, value, rule)

    def _fields(self, path: Path, value: Any, rule: Mapping[str, Rule]) -> Iterator[Finding]:
        if not isinstance(value, dict):
            return  # a short form, or a mistake that Compose tells better
        for key, inner in value.items():
            if key in rule:
                yield from self.below((*path, key), inner, rule[key])
            elif not str(key).startswith("x-") and inner not in _EMPTY:
                yield Finding((*path, key), f"{key} is not honoured by this engine", UNSUPPORTED_FIELD)

    def _entries(self, path: Path, value: Any, rule: Entries) -> Iterator[Finding]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for step, item in items:
            yield from self.below((*path, step), item, rule.text if isinstance(item, str) else rule.rule)

    def _said(self, path: Path, rule: Ignored | Refused | Forbidden | Guarded, detail: str = "") -> Iterator[Finding]:
        noun = next((step for step in reversed(path) if isinstance(step, str)), "")
        message = f"{noun}{detail} {rule.why}"
        match rule:
            case Ignored():
                yield Finding(path, f"{message} and is ignored", IGNORED_FIELD, Severity.WARNING)
            case Refused():
                yield Finding(path, message, UNSUPPORTED_FIELD)
            case Forbidden():
                yield Finding(path, message, FORBIDDEN_FIELD)
            case Guarded() if not self._allowed.host_access:
                yield Finding(path, f"{message}, which this node's policy does not grant", HOST_ACCESS_DENIED)

    # What a value alone does not tell

    def _labels(self, path: Path, value: Any) -> Iterator[Finding]:
        """What would be taken for a part of a Pod would be left to run by who looks for projects."""
        entries = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        for key, entry in entries:
            name = key if isinstance(value, dict) else str(entry).partition("=")[0]
            if name == LABEL_POD:
                yield Finding((*path, key), f"{name} is the label by which a node knows its Pods", FORBIDDEN_FIELD)

    def _capabilities(self, path: Path, value: Any) -> Iterator[Finding]:
        for index, name in enumerate(value if isinstance(value, list) else ()):
            plain = str(name).upper().removeprefix("CAP_")
            if plain not in policy.BASELINE_CAPABILITIES and not _is_variable(name):
                yield from self._said(
                    (*path, index), Guarded(f"asks for {plain[:40]}, a right over the machine itself")
                )

    def _security_options(self, path: Path, value: Any) -> Iterator[Finding]:
        for index, option in enumerate(value if isinstance(value, list) else ()):
            if str(option) not in _SAFE_OPTIONS and not _is_variable(option):
                yield from self._said((*path, index), Guarded(f"{_shown(option)} lifts a protection of the machine"))

    def _network_mode(self, path: Path, value: Any) -> Iterator[Finding]:
        text = str(value)
        if text != "none" and not text.startswith("service:") and not _is_variable(value):
            yield from self._said(path, Guarded("joins a network that is not of this workload"), f" ({_shown(value)})")

    def _mount(self, path: Path, value: Any) -> Iterator[Finding]:
        """A directory of the machine, however it is written."""
        if isinstance(value, str):
            source, colon, _ = value.partition(":")
            is_bind = bool(colon) and source.startswith(_PATH_STARTS)
            is_bind = is_bind or (len(source) == 1 and value[1:3] in (":\\", ":/"))
        else:
            fields = value if isinstance(value, dict) else {}
            source = str(fields.get("source") or "")
            is_bind = fields.get("type") == "bind" or source.startswith(_PATH_STARTS)
        if is_bind:
            yield from self._said(path, Guarded("mounts a path of the machine"), f" ({_shown(source)})")

    def _extends(self, path: Path, value: Any) -> Iterator[Finding]:
        if isinstance(value, dict) and "file" in value:
            yield from self._said((*path, "file"), Forbidden("makes Compose read another file"))

    def _variable(self, path: Path, value: Any) -> Iterator[Finding]:
        if str(value) not in self._variables:
            message = (
                f"{path[-1]} names {_shown(value)}, which is not in the deployment's env; nothing else is looked at"
            )
            yield Finding(path, message, REFERENCE_NOT_FOUND)

    def _files(self, path: Path, value: Any) -> Iterator[Finding]:
        """One path, or a list of paths and of mappings with one."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                at: Path = (*path, index, "path") if isinstance(item, dict) else (*path, index)
                yield from self._file(at, item.get("path") if isinstance(item, dict) else item)
        else:
            yield from self._file(path, value)

    def _file(self, path: Path, value: Any) -> Iterator[Finding]:
        root = self._allowed.file_root
        if root is None:
            message = "names a file of the machine; this node has no directory from which files may be read"
        elif not _is_below(root, str(value)):
            message = f"names a file outside {root}, the only directory from which files may be read"
        else:
            return
        yield Finding(path, f"{_shown(value)} {message}", PATH_NOT_ALLOWED)


def _is_below(root: FilePath, name: str) -> bool:
    """Whether an absolute path leads below `root`, links followed; one with a variable in it may lead anywhere."""
    if _VARIABLE in name or not FilePath(name).is_absolute():
        return False
    return FilePath(os.path.realpath(name)).is_relative_to(os.path.realpath(root))


def _is_variable(value: object) -> bool:
    """Whether only Compose can tell what it is; then it is judged once Compose has."""
    return isinstance(value, str) and _VARIABLE in value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
