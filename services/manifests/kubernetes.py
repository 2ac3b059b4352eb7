"""What Kubernetes' API server checks beyond types: names that are unique, references that hold, one-of choices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.manifests import quantities, schemas
from services.manifests.documents import Document, violation
from services.manifests.findings import Findings, shorten
from services.manifests.formats import FORMATS
from services.manifests.lookup import mapping_at, mappings_in, strings_at, text_at, value_at
from services.manifests.paths import Path

SCHEMA = "kubernetes.schema.json"
KINDS = ("Pod", "Deployment", "ConfigMap", "Secret", "PersistentVolumeClaim")

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_PROJECTIONS = ("configMap", "secret", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate")
_SECRET_KEYS: Mapping[str, Sequence[str]] = {
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
"""What a Secret of a known type must hold."""

_METADATA = r"metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]"
_STATUS = r"spec\.(nodeName|serviceAccountName)|status\.(hostIP|podIP)s?"
_ENV_FIELD = re.compile(rf"{_METADATA}|{_STATUS}")
_FILE_FIELD = re.compile(rf"{_METADATA}|metadata\.(labels|annotations)")
_RESOURCE = re.compile(r"(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i)")


def pod_path(kind: str) -> Path | None:
    """Where a document of this kind has its pod's spec, or None."""
    return {"Pod": ("spec",), "Deployment": ("spec", "template", "spec")}.get(kind)


def check(document: Document, findings: Findings) -> None:
    """Adds a finding for everything in the document that Kubernetes would refuse."""
    _Rules(document, findings).check()


class _Rules:
    """One document's rules, and where their findings go."""

    def __init__(self, document: Document, findings: Findings) -> None:
        self._document = document
        self._body = document.body
        self._findings = findings

    def check(self) -> None:
        if "status" in self._body:
            self._add(("status",), "status is written by the server; leave it out", "UNSUPPORTED_FIELD", at_key=True)
            self._body.pop("status")
        schemas.check(self._document, SCHEMA, self._findings)
        if not self._document.name and not value_at(self._body, ("metadata", "name")):
            hint = (
                " (generateName needs an API server)"
                if mapping_at(self._body, ("metadata",)).get("generateName")
                else ""
            )
            self._add(("metadata", "name"), f'required field "name" is missing{hint}', "REQUIRED_FIELD")
        if path := pod_path(self._document.kind):
            self._check_pod(path)
        if self._document.kind == "Deployment":
            self._check_deployment()
        if self._document.kind == "ConfigMap":
            self._check_both(("data",), ("binaryData",))
        if self._document.kind == "Secret":
            self._check_secret()
        if self._document.kind == "PersistentVolumeClaim":
            self._check_claim()

    def _add(self, path: Path, message: str, reason: str = "BAD_VALUE", *, at_key: bool = False) -> None:
        if not self._findings.full:
            self._findings.add(violation(self._document, path, message, reason, at_key=at_key))

    def _check_pod(self, spec: Path) -> None:
        if "ephemeralContainers" in mapping_at(self._body, spec):
            message = "ephemeralContainers can only be added to a running pod"
            self._add((*spec, "ephemeralContainers"), message, "UNSUPPORTED_FIELD", at_key=True)
        volumes = list(mappings_in(self._body, (*spec, "volumes")))
        self._check_unique(volumes, "name", "volume")
        for path, volume in volumes:
            self._at_most_one(path, [name for name in volume if name != "name"], "a volume has one source")
            self._check_projected(path, volume)
        containers = list(mappings_in(self._body, (*spec, "containers")))
        inits = list(mappings_in(self._body, (*spec, "initContainers")))
        self._check_unique([*inits, *containers], "name", "container")
        known = {str(volume.get("name")) for _, volume in volumes}
        for path, container in [*inits, *containers]:
            self._check_container(path, container, known)
        for path, container in inits:
            if container.get("restartPolicy") != "Always":
                for name in (*_PROBES, "lifecycle"):
                    if name in container:
                        message = f"an init container that does not restart always has no {name}"
                        self._add((*path, name), message, at_key=True)
        self._check_ports([*inits, *containers])
        self._check_host_network(spec, [*inits, *containers])
        self._check_name_servers(spec)
        self._check_profiles((*spec, "securityContext"))

    def _check_container(self, path: Path, container: Mapping[str, Any], volumes: set[str]) -> None:
        for name in _PROBES:
            if isinstance(probe := container.get(name), dict):
                self._exactly_one(("a probe", _HANDLERS), (*path, name), probe)
                if name != "readinessProbe" and probe.get("successThreshold", 1) not in (0, 1):
                    self._add((*path, name, "successThreshold"), f"must be 1 for a {name}")
        for name in ("postStart", "preStop"):
            if isinstance(hook := value_at(container, ("lifecycle", name)), dict):
                self._exactly_one(("a lifecycle hook", _HOOKS), (*path, "lifecycle", name), hook)
        self._check_environment(path, container)
        self._check_mounts(path, container, volumes)
        self._check_resources((*path, "resources"))
        self._check_escalation((*path, "securityContext"))
        self._check_profiles((*path, "securityContext"))

    def _check_environment(self, path: Path, container: Mapping[str, Any]) -> None:
        for at, variable in _under(path, mappings_in(container, ("env",))):
            source = variable.get("valueFrom")
            if source is not None and variable.get("value"):
                self._add((*at, "valueFrom"), "a variable has a value or a valueFrom, not both", at_key=True)
            if isinstance(source, dict):
                self._exactly_one(("valueFrom", _SOURCES), (*at, "valueFrom"), source)
                self._check_references((*at, "valueFrom"), source, _ENV_FIELD)
        for at, source in _under(path, mappings_in(container, ("envFrom",))):
            self._exactly_one(("envFrom", ("configMapRef", "secretRef")), at, source)

    def _check_mounts(self, path: Path, container: Mapping[str, Any], volumes: set[str]) -> None:
        mounts = list(_under(path, mappings_in(container, ("volumeMounts",))))
        self._check_unique(mounts, "mountPath", "mount path")
        for at, mount in [*mounts, *_under(path, mappings_in(container, ("volumeDevices",)))]:
            name = mount.get("name")
            if isinstance(name, str) and name not in volumes and not self._findings.full:
                have = ", ".join(sorted(volumes)[:10]) or "none"
                self._add((*at, "name"), f"there is no volume {shorten(name)} in this pod; its volumes: {have}")

            if mount.get("subPath") and mount.get("subPathExpr"):
                self._add((*at, "subPathExpr"), "a mount has a subPath or a subPathExpr, not both", at_key=True)

    def _check_references(self, path: Path, source: Mapping[str, Any], fields: re.Pattern[str]) -> None:
        """The downward API: a field or a resource that can be referred to."""
        for step, pattern in ((("fieldRef", "fieldPath"), fields), (("resourceFieldRef", "resource"), _RESOURCE)):
            named = text_at(source, step)
            if named is not None and not pattern.fullmatch(named):
                self._add((*path, *step), f"{shorten(named)} cannot be referred to here")

    def _check_projected(self, path: Path, volume: Mapping[str, Any]) -> None:
        sources = list(_under(path, mappings_in(volume, ("projected", "sources"))))
        for at, source in sources:
            self._at_most_one(at, [name for name in _PROJECTIONS if name in source], "a projected source is one thing")
        holders = [((*path, "downwardAPI"), mapping_at(volume, ("downwardAPI",)))]
        holders += [((*at, "downwardAPI"), mapping_at(source, ("downwardAPI",))) for at, source in sources]
        for at, holder in holders:
            for item_at, item in _under(at, mappings_in(holder, ("items",))):
                self._exactly_one(("an item", ("fieldRef", "resourceFieldRef")), item_at, item)
                self._check_references(item_at, item, _FILE_FIELD)

    def _check_escalation(self, path: Path) -> None:
        context = mapping_at(self._body, path)
        if context.get("allowPrivilegeEscalation") is not False:
            return
        added = value_at(context, ("capabilities", "add"))
        if context.get("privileged") is True or (isinstance(added, list) and "CAP_SYS_ADMIN" in added):
            message = "a container that is privileged or has CAP_SYS_ADMIN cannot be kept from escalating"
            self._add((*path, "allowPrivilegeEscalation"), message)

    def _check_profiles(self, path: Path) -> None:
        for name in ("seccompProfile", "appArmorProfile"):
            profile = mapping_at(self._body, (*path, name))
            local, given = profile.get("type") == "Localhost", "localhostProfile" in profile
            if local and not given:
                message = 'required field "localhostProfile" is missing for type Localhost'
                self._add((*path, name, "localhostProfile"), message, "REQUIRED_FIELD")
            if given and not local:
                self._add((*path, name, "localhostProfile"), "only type Localhost has a localhostProfile", at_key=True)

    def _check_name_servers(self, spec: Path) -> None:
        config: Path = (*spec, "dnsConfig", "nameservers")
        if text_at(self._body, (*spec, "dnsPolicy")) == "None" and not value_at(self._body, config):
            self._add(config, "dnsPolicy None needs a name server in dnsConfig", "REQUIRED_FIELD")

    def _check_host_network(self, spec: Path, containers: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
        if value_at(self._body, (*spec, "hostNetwork")) is not True:
            return
        for path, container in containers:
            for at, port in _under(path, mappings_in(container, ("ports",))):
                host_port = port.get("hostPort")
                if host_port and host_port != port.get("containerPort"):
                    self._add((*at, "hostPort"), "on the host's network a hostPort is the containerPort")

    def _check_resources(self, path: Path) -> None:
        limits = mapping_at(self._body, (*path, "limits"))
        for name, request in mapping_at(self._body, (*path, "requests")).items():
            limit = limits.get(name)
            if limit is not None and _exceeds(request, limit):
                message = f"requests {shorten(request)}, more than its limit {shorten(limit)}"
                self._add((*path, "requests", name), message)

    def _check_ports(self, containers: Iterable[tuple[Path, Mapping[str, Any]]]) -> None:
        taken: dict[tuple[Any, ...], Path] = {}
        for path, container in containers:
            ports = list(_under(path, mappings_in(container, ("ports",))))
            self._check_unique(ports, "name", "port")
            for at, port in ports:
                key = (port.get("hostPort"), port.get("protocol", "TCP"), port.get("hostIP", ""))
                if isinstance(key[2], str) and key[2] and not FORMATS["ip-address"].check(key[2]):
                    self._add((*at, "hostIP"), f"must be {FORMATS['ip-address'].expected}, is {shorten(key[2])}")
                if not isinstance(key[0], int) or not key[0] or not all(isinstance(part, str) for part in key[1:]):
                    continue
                if (first := taken.setdefault(key, at)) != at:
                    line = self._document.position((*first, "hostPort")).line
                    self._add(
                        (*at, "hostPort"), f"host port {key[0]} is used twice: first at line {line}", "DUPLICATE_VALUE"
                    )

    def _check_deployment(self) -> None:
        path: Path
        if (policy := text_at(self._body, ("spec", "template", "spec", "restartPolicy"))) not in (None, "Always"):
            path = ("spec", "template", "spec", "restartPolicy")
            self._add(path, f"a Deployment's pods restart Always, is {shorten(policy)}")
        if text_at(self._body, ("spec", "strategy", "type")) == "Recreate":
            path = ("spec", "strategy", "rollingUpdate")
            if value_at(self._body, path) is not None:
                self._add(path, "strategy Recreate has no rollingUpdate", at_key=True)
        selector: Path = ("spec", "selector")
        labels = strings_at(self._body, ("spec", "template", "metadata", "labels"))
        wanted = mapping_at(self._body, (*selector, "matchLabels"))
        for key, value in wanted.items():
            if isinstance(value, str) and labels.get(key) != value:
                message = f"the template's labels have no {key}: {value}, so the selector would not find its own pods"
                self._add((*selector, "matchLabels", key), message)
        expressions = list(mappings_in(self._body, (*selector, "matchExpressions")))
        for at, expression in expressions:
            if not _matches(expression, labels):
                self._add(at, "the template's labels do not match, so the selector would not find its own pods")
        if isinstance(value_at(self._body, selector), dict) and not wanted and not expressions:
            self._add(selector, "a Deployment's selector cannot be empty")

    def _check_secret(self) -> None:
        kind = text_at(self._body, ("type",)) or ""
        given = {**mapping_at(self._body, ("data",)), **mapping_at(self._body, ("stringData",))}
        for key in _SECRET_KEYS.get(kind, ()):
            if key not in given:
                self._add(("data", key), f"a Secret of type {kind} needs the key {key}", "REQUIRED_FIELD")

    def _check_claim(self) -> None:
        path: Path = ("spec", "resources", "requests", "storage")
        size = value_at(self._body, path)
        if _is_zero(size):
            self._add(path, f"must be more than nothing, is {shorten(size)}")

    def _check_both(self, first: Path, second: Path) -> None:
        for key in sorted(mapping_at(self._body, first).keys() & mapping_at(self._body, second).keys()):
            line = self._document.key_position((*first, key)).line
            message = f"key {shorten(key)} is in {first[-1]} too, at line {line}"
            self._add((*second, key), message, "DUPLICATE_VALUE", at_key=True)

    def _check_unique(self, items: Iterable[tuple[Path, Mapping[str, Any]]], field: str, what: str) -> None:
        lines: dict[str, int] = {}
        for path, item in items:
            value = item.get(field)
            if not isinstance(value, str):
                continue
            line = self._document.position((*path, field)).line
            if value in lines:
                message = f"{what} {shorten(value)} is given twice: first at line {lines[value]}, again at line {line}"
                self._add((*path, field), message, "DUPLICATE_VALUE")
            lines.setdefault(value, line)

    def _exactly_one(self, what: tuple[str, tuple[str, ...]], path: Path, value: Mapping[str, Any]) -> None:
        name, choices = what
        given = [choice for choice in choices if choice in value]
        if not given:
            self._add(path, f"{name} needs one of {', '.join(choices)}", "REQUIRED_FIELD")
        self._at_most_one(path, given, f"{name} has exactly one of {', '.join(choices)}")

    def _at_most_one(self, path: Path, given: list[str], rule: str) -> None:
        for extra in given[1:]:
            self._add((*path, extra), f"{rule}, here are {' and '.join(given)}", at_key=True)


def _under(parent: Path, items: Iterable[tuple[Path, Mapping[str, Any]]]) -> Iterable[tuple[Path, Mapping[str, Any]]]:
    return (((*parent, *path), item) for path, item in items)


def _exceeds(request: object, limit: object) -> bool:
    try:
        return quantities.quantity(_amount(request)) > quantities.quantity(_amount(limit))
    except ValueError:
        return False


def _is_zero(amount: object) -> bool:
    try:
        return quantities.quantity(_amount(amount)) == 0
    except ValueError:
        return False


def _amount(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else ""


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy the expression; one that is malformed is reported elsewhere."""
    key, values = expression.get("key"), expression.get("values", [])
    if not isinstance(key, str) or not isinstance(values, list):
        return True
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return True
