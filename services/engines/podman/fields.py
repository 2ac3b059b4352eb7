"""What of a Pod this engine honours: one tree, and the findings about everything outside it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Config, Issue, Severity
from services.engines.podman.images import full_reference
from services.errors import FieldViolation
from services.manifests import Document, Manifest, Path, violation

KINDS = ("Pod",)


@dataclass(frozen=True, slots=True)
class Only:
    """A field of which these values alone are honoured, because they change nothing here."""

    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """A field that is honoured with all that is in it."""


Tree = Mapping[str, "Rule"]
Rule = Whole | Only | Tree

_ANY = Whole()
_ROOM: Tree = {"cpu": _ANY, "memory": _ANY}
_NO = Only((False,))

_CONTAINER: Tree = {
    "name": _ANY,
    "image": _ANY,
    "imagePullPolicy": _ANY,
    "command": _ANY,
    "args": _ANY,
    "workingDir": _ANY,
    "env": {"name": _ANY, "value": _ANY},
    "ports": {
        "name": _ANY,  # only Services and probes refer to it
        "containerPort": _ANY,
        "hostPort": _ANY,
        "hostIP": _ANY,
        "protocol": Only(("TCP", "UDP")),
    },
    "resources": {"limits": _ROOM, "requests": _ROOM},
    "stdin": _NO,
    "stdinOnce": _NO,
    "tty": _NO,
    "terminationMessagePath": Only(("/dev/termination-log",)),
    "terminationMessagePolicy": Only(("File",)),
}
_POD: Tree = {
    "apiVersion": _ANY,
    "kind": _ANY,
    "metadata": {"name": _ANY, "namespace": _ANY, "labels": _ANY, "annotations": _ANY},
    "spec": {
        "containers": _CONTAINER,
        "restartPolicy": _ANY,
        "hostname": _ANY,
        "terminationGracePeriodSeconds": _ANY,
        "dnsPolicy": Only(("ClusterFirst", "Default")),  # without a cluster both mean the machine's
        "enableServiceLinks": _ANY,  # there are no Services whose addresses could be added
        "schedulerName": Only(("default-scheduler",)),
        "automountServiceAccountToken": _NO,
        "hostNetwork": _NO,
        "hostPID": _NO,
        "hostIPC": _NO,
        "shareProcessNamespace": _NO,
    },
}


def check(manifest: Manifest, config: Config) -> list[Issue]:
    """Every field, kind, config entry and option that would be dropped or cannot work."""
    return [*_documents(manifest, config), *_config(config)]


def _documents(manifest: Manifest, config: Config) -> Iterator[Issue]:
    pods = [document for document in manifest.documents if document.kind in KINDS]
    for document in manifest.documents:
        if document not in pods:
            message = f"kind {document.kind} is not run by engine podman; it runs {', '.join(KINDS)}"
            yield _issue(violation(document, ("kind",), message, "UNSUPPORTED_KIND"))
    for document in pods[1:]:
        message = "engine podman runs one Pod a deployment; deploy the others on their own"
        yield _issue(violation(document, ("kind",), message, "UNSUPPORTED_KIND"))
    for document in pods:
        yield from _outside(document, (), document.body, _POD)
        yield from _containers(document, config.replicas or 1)


def _outside(document: Document, path: Path, value: object, rule: Rule) -> Iterator[Issue]:
    """The fields below `path` that the tree does not have; what is empty asks for nothing."""
    if isinstance(rule, Whole) or value in ("", [], {}):
        return
    if isinstance(rule, Only):
        if value not in rule.values:
            allowed = " or ".join(str(known) for known in rule.values)
            yield _unsupported(document, path, f"{value!r} is not honoured by engine podman; only {allowed} is")
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _outside(document, (*path, index), item, rule)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key in rule:
                yield from _outside(document, (*path, key), below, rule[key])
            elif below not in ("", [], {}):
                yield _unsupported(document, (*path, key), f"{key} is not honoured by engine podman yet")


def _containers(document: Document, replicas: int) -> Iterator[Issue]:
    containers: Sequence[Mapping[str, Any]] = document.body["spec"]["containers"]
    for index, container in enumerate(containers):
        path: Path = ("spec", "containers", index)
        try:
            full_reference(container["image"])
        except ValueError as error:
            yield _issue(violation(document, (*path, "image"), str(error), "BAD_VALUE"))
        for number, port in enumerate(container.get("ports") or []):
            if replicas > 1 and port.get("hostPort"):
                message = f"{replicas} replicas cannot share one hostPort of this machine"
                yield _unsupported(document, (*path, "ports", number, "hostPort"), message)


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


def _unsupported(document: Document, path: Path, message: str) -> Issue:
    return _issue(violation(document, path, message, "UNSUPPORTED_FIELD", at_key=True))


def _issue(found: FieldViolation) -> Issue:
    return Issue(
        severity=Severity.ERROR,
        field_path=found.field_path,
        reason=found.reason,
        message=found.message,
        line=found.line,
        column=found.column,
    )
