"""Finds what single fields cannot tell: references into the void, and values that exclude each other. Pure."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

from services.engines.engine import Config, Severity
from services.engines.pods.downward import MACHINE_FIELDS, POD_FIELDS, is_known_field
from services.engines.pods.findings import (
    BAD_VALUE,
    IGNORED_FIELD,
    REFERENCE_NOT_FOUND,
    UNSUPPORTED_FIELD,
    Found,
    found,
)
from services.engines.pods.images import full_reference
from services.engines.pods.policy import Honours
from services.engines.pods.sources import Data, Sources
from services.engines.pods.volumes import HOST_PATH_TYPES
from services.engines.pods.workload import Template, templates
from services.manifests import Document, Manifest, Path
from services.manifests.lookup import value_at

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_HOOKS_WITH_PORTS = ("httpGet", "tcpSocket")


def check(manifest: Manifest, config: Config, honours: Honours) -> Iterator[Found]:
    """All such findings of a manifest."""
    sources = Sources(manifest)
    known = templates(manifest, config)
    for template in known:
        yield from _Rules(template, sources, honours).check()
    yield from _names(known)
    for document in manifest.documents:
        if document.kind == "Secret" and document.body.get("type") == "kubernetes.io/service-account-token":
            message = "a service account's token is filled in by an API server, which is not here"
            yield found(document, ("type",), message, UNSUPPORTED_FIELD)
        if document.kind == "PersistentVolumeClaim":
            yield from _access_modes(document, known)


def _names(known: list[Template]) -> Iterator[Found]:
    seen: set[str] = set()
    for template in known:
        if template.name in seen:
            message = f"another workload of this manifest is called {template.name} too; give each a name of its own"
            yield found(template.document, ("metadata", "name"), message, UNSUPPORTED_FIELD)
        seen.add(template.name)


def _access_modes(document: Document, known: list[Template]) -> Iterator[Found]:
    users = sum(
        template.replicas
        for template in known
        if template.namespace == document.namespace
        and any(_claim_name(volume) == document.name for _, volume in template.volumes())
    )
    for index, mode in enumerate(document.body["spec"].get("accessModes") or ()):
        if mode == "ReadWriteOncePod" and users > 1:
            message = f"{users} pods cannot share a claim of which only one may have hold"
            yield found(document, ("spec", "accessModes", index), message, UNSUPPORTED_FIELD)


def _claim_name(volume: Mapping[str, Any]) -> str:
    name: str = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
    return name


class _Rules:
    """The rules of one workload."""

    def __init__(self, template: Template, sources: Sources, honours: Honours) -> None:
        self._honours = honours
        self._template = template
        self._document = template.document
        self._sources = sources

    def check(self) -> Iterator[Found]:
        for path, container in self._template.containers():
            yield from self._container(path, container)
        yield from self._inits()
        for path, volume in self._template.volumes():
            yield from self._volume(path, volume)
        yield from self._sub_paths()
        yield from self._placement()
        yield from self._account()
        path = self._template.path
        for index, secret in enumerate(self._template.spec.get("imagePullSecrets") or ()):
            if self._sources.secret(self._template.namespace, secret.get("name", "")) is None:
                yield self._missing((*path, "imagePullSecrets", index, "name"), "Secret", secret.get("name", ""))

    def _container(self, path: Path, container: Mapping[str, Any]) -> Iterator[Found]:
        try:
            full_reference(container["image"])
        except ValueError as error:
            yield self._found((*path, "image"), str(error), BAD_VALUE)
        for number, port in enumerate(container.get("ports") or []):
            if self._template.replicas > 1 and port.get("hostPort"):
                message = f"{self._template.replicas} replicas cannot share one hostPort of this machine"
                yield self._found((*path, "ports", number, "hostPort"), message, UNSUPPORTED_FIELD)
        yield from self._environment(path, container)
        for number, mount in enumerate(container.get("volumeMounts") or []):
            if not str(mount.get("mountPath", "")).startswith("/"):
                yield self._found((*path, "volumeMounts", number, "mountPath"), "must be absolute", BAD_VALUE)
        yield from self._named_ports(path, container)
        yield from self._user(path, container)

    def _inits(self) -> Iterator[Found]:
        for index, container in enumerate(self._template.inits):
            if container.get("tty") and not self._honours.init_terminals:
                path = (*self._template.path, "initContainers", index, "tty")
                message = f"an init container has no terminal in engine {self._honours.engine}"
                yield self._found(path, message, UNSUPPORTED_FIELD)

    # Environment

    def _environment(self, path: Path, container: Mapping[str, Any]) -> Iterator[Found]:
        for number, source in enumerate(container.get("envFrom") or ()):
            for field, look in (("configMapRef", self._sources.config_map), ("secretRef", self._sources.secret)):
                reference = source.get(field)
                if reference and not reference.get("optional") and look(self._space, reference["name"]) is None:
                    kind = "ConfigMap" if field == "configMapRef" else "Secret"
                    yield self._missing((*path, "envFrom", number, field, "name"), kind, reference["name"])
        for number, variable in enumerate(container.get("env") or ()):
            source = variable.get("valueFrom") or {}
            at = (*path, "env", number, "valueFrom")
            for field, look in (("configMapKeyRef", self._sources.config_map), ("secretKeyRef", self._sources.secret)):
                if reference := source.get(field):
                    kind = "ConfigMap" if field == "configMapKeyRef" else "Secret"
                    yield from self._key((*at, field), reference, kind, look(self._space, reference["name"]))
            if reference := source.get("fieldRef"):
                yield from self._field((*at, "fieldRef"), reference, (*POD_FIELDS, *MACHINE_FIELDS))
            if reference := source.get("resourceFieldRef"):
                yield from self._container_name((*at, "resourceFieldRef"), reference)

    def _key(self, path: Path, reference: Mapping[str, Any], kind: str, data: Data | None) -> Iterator[Found]:
        name, key = reference.get("name", ""), reference["key"]
        if data is not None and key in data:
            try:
                text = data[key].decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                message = f"key {key} of {kind} {name} is not text, which is all that a variable can hold"
                yield self._found((*path, "key"), message, BAD_VALUE)
        elif not reference.get("optional"):
            if data is None:
                yield self._missing((*path, "name"), kind, name)
            else:
                yield self._missing((*path, "key"), f"key in {kind} {name}:", key)

    def _field(self, path: Path, reference: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[Found]:
        field = reference["fieldPath"]
        if not is_known_field(field, known):
            message = f"{field} is known only once the pod runs, or not at all here"
            yield self._found((*path, "fieldPath"), message, UNSUPPORTED_FIELD)

    def _container_name(self, path: Path, reference: Mapping[str, Any]) -> Iterator[Found]:
        name = reference.get("containerName")
        if name and all(container["name"] != name for _, container in self._template.containers()):
            yield self._missing((*path, "containerName"), "container", name)

    # Volumes

    def _volume(self, path: Path, volume: Mapping[str, Any]) -> Iterator[Found]:
        for field, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            if source := volume.get(field):
                yield from self._files((*path, field), source, kind, name)
        yield from self._downward((*path, "downwardAPI"), volume.get("downwardAPI") or {})
        for number, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            at = (*path, "projected", "sources", number)
            for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
                if field in source:
                    yield from self._files((*at, field), source[field], kind, "name")
            yield from self._downward((*at, "downwardAPI"), source.get("downwardAPI") or {})
        claim = _claim_name(volume)
        if claim and self._sources.claim(self._space, claim) is None:
            yield self._missing((*path, "persistentVolumeClaim", "claimName"), "PersistentVolumeClaim", claim)
        if (volume.get("hostPath") or {}).get("type", "") not in HOST_PATH_TYPES:
            message = "a path of the machine is mounted as it is, and nothing is made there"
            yield self._found((*path, "hostPath", "type"), message, UNSUPPORTED_FIELD)
        directory = volume.get("emptyDir") or {}
        if directory.get("sizeLimit") and directory.get("medium") != "Memory":
            message = "a directory on disk cannot be kept within a size; medium: Memory can"
            yield self._found((*path, "emptyDir", "sizeLimit"), message, UNSUPPORTED_FIELD)

    def _files(self, path: Path, source: Mapping[str, Any], kind: str, name_field: str) -> Iterator[Found]:
        name = source.get(name_field, "")
        data = (self._sources.config_map if kind == "ConfigMap" else self._sources.secret)(self._space, name)
        if source.get("optional"):
            return
        if data is None:
            yield self._missing((*path, name_field), kind, name)
            return
        for number, item in enumerate(source.get("items") or ()):
            if item["key"] not in data:
                yield self._missing((*path, "items", number, "key"), f"key in {kind} {name}:", item["key"])

    def _downward(self, path: Path, source: Mapping[str, Any]) -> Iterator[Found]:
        for number, item in enumerate(source.get("items") or ()):
            at = (*path, "items", number)
            if reference := item.get("fieldRef"):
                known = (*POD_FIELDS, "metadata.labels", "metadata.annotations")
                yield from self._field((*at, "fieldRef"), reference, known)
            if reference := item.get("resourceFieldRef"):
                yield from self._container_name((*at, "resourceFieldRef"), reference)

    def _sub_paths(self) -> Iterator[Found]:
        """A part of a directory that someone may replace: a link put in its place would lead out of the volume.

        The backend binds the part anew at each start of a container, wherever the path leads by then.
        """
        writable = {volume["name"] for _, volume in self._template.volumes() if self._is_writable(volume)}
        mounts = [
            ((*path, "volumeMounts", number), mount)
            for path, container in self._template.containers()
            for number, mount in enumerate(container.get("volumeMounts") or ())
            if mount["name"] in writable
        ]
        for path, mount in mounts:
            part = _part(mount)
            above = [
                other
                for _, other in mounts
                if other["name"] == mount["name"] and not other.get("readOnly") and _is_above(_part(other), part)
            ]
            if part and above:
                field = "subPath" if mount.get("subPath") else "subPathExpr"
                message = (
                    f"{above[0]['mountPath']} may change what {part} is, and so lead it out of the volume; "
                    "mount parts of which none contains another"
                )
                yield self._found((*path, field), message, UNSUPPORTED_FIELD)

    @staticmethod
    def _is_writable(volume: Mapping[str, Any]) -> bool:
        return not any(field in volume for field in ("configMap", "secret", "downwardAPI", "projected"))

    # The rest

    def _named_ports(self, path: Path, container: Mapping[str, Any]) -> Iterator[Found]:
        names = {port.get("name") for port in container.get("ports") or ()}
        lifecycle = container.get("lifecycle") or {}
        actions = [((*path, "lifecycle", hook), action) for hook, action in lifecycle.items()]
        actions += [
            ((*path, probe), container[probe])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
            if probe in container
        ]
        for at, action in actions:
            for handler in _HOOKS_WITH_PORTS:
                port = value_at(action, (handler, "port"))
                if isinstance(port, str) and not port.isdigit() and port not in names:
                    yield self._missing((*at, handler, "port"), "port of this container called", port)

    def _user(self, path: Path, container: Mapping[str, Any]) -> Iterator[Found]:
        own, pod = container.get("securityContext") or {}, self._template.spec.get("securityContext") or {}
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            return
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            at = path if "runAsUser" in own else self._template.path
            message = "runAsNonRoot is set, and user 0 is root"
            yield self._found((*at, "securityContext", "runAsUser"), message, BAD_VALUE)

    def _placement(self) -> Iterator[Found]:
        spec, path = self._template.spec, self._template.path
        here = {
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        }
        for key, value in (spec.get("nodeSelector") or {}).items():
            if here.get(key) != value:
                message = f"this node does not have {key}: {value}"
                yield self._found((*path, "nodeSelector", key), message, UNSUPPORTED_FIELD)
        for index, constraint in enumerate(spec.get("topologySpreadConstraints") or ()):
            at = (*path, "topologySpreadConstraints", index)
            if constraint.get("whenUnsatisfiable") == "ScheduleAnyway":
                message = "a single node has nothing to spread over; this is ignored"
                yield found(self._document, at, message, IGNORED_FIELD, severity=Severity.WARNING)
            else:
                yield self._found(at, "a single node has nothing to spread over", UNSUPPORTED_FIELD)

    def _account(self) -> Iterator[Found]:
        spec = self._template.spec
        for field in ("serviceAccountName", "serviceAccount"):
            if spec.get(field, "default") in ("", "default"):
                continue
            path = (*self._template.path, field)
            if spec.get("automountServiceAccountToken") is False:
                message = "there is no API that a service account would have rights on; it is ignored"
                yield found(self._document, path, message, IGNORED_FIELD, severity=Severity.WARNING)
            else:
                yield self._found(path, "there is no API that a service account has rights on", UNSUPPORTED_FIELD)

    @property
    def _space(self) -> str:
        return self._template.namespace

    def _found(self, path: Path, message: str, reason: str) -> Found:
        return found(self._document, path, message, reason)

    def _missing(self, path: Path, what: str, name: str) -> Found:
        return self._found(path, f"this manifest has no {what} {name}", REFERENCE_NOT_FOUND)


def _part(mount: Mapping[str, Any]) -> str:
    part: str = mount.get("subPath") or mount.get("subPathExpr") or ""
    return part.strip("/")


def _is_above(one: str, other: str) -> bool:
    """Whether what writes in `one` can replace `other`."""
    return one != other and (not one or other.startswith(f"{one}/"))
