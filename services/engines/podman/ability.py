"""What podman cannot do for a user that is not root, and the fields of a manifest that would need it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.engines.engine import Config, Issue, Severity
from services.engines.pods.findings import IGNORED_FIELD, UNSUPPORTED_FIELD, found
from services.engines.pods.workload import Template, templates
from services.manifests import Manifest, Path
from services.manifests.lookup import mapping_at
from services.manifests.resources import CPU_HINT, MEMORY_HINT

_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_HOOKS = ("postStart", "preStop")
_DIALED = ("httpGet", "tcpSocket", "grpc")
_HINTS = {"cpu": CPU_HINT, "memory": MEMORY_HINT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """What one podman can do; by default all, as root's can."""

    rootless: bool = False
    cpu: bool = True
    """Limits of CPU are kept."""
    memory: bool = True
    """Limits of memory are kept."""
    stats: bool = True
    """The use of resources is measured."""
    lowest_port: int = 0
    """Of the machine that a container may publish."""

    @property
    def cannot(self) -> str:
        """What it lacks, in words; empty when nothing."""
        lacks = {
            "keep memory limits": not self.memory,
            "keep CPU limits": not self.cpu,
            "measure use": not self.stats,
            "reach pods from the node, so only exec probes run": self.rootless,
            f"publish ports below {self.lowest_port}": self.lowest_port > 1,
        }
        return "; ".join(words for words, lacking in lacks.items() if lacking)


def ability_of(info: Mapping[str, Any], *, lowest_port: int) -> Ability:
    """Read podman's `/info`; `lowest_port` is the machine's for users that are not root."""
    host: Mapping[str, Any] = info.get("host") or {}
    if not (host.get("security") or {}).get("rootless"):
        return Ability()
    unified = host.get("cgroupVersion") == "v2"
    return rootless(unified, host.get("cgroupControllers") or (), lowest_port=lowest_port)


def rootless(unified: bool, controllers: object, *, lowest_port: int) -> Ability:
    """Of a user to whom these cgroup controllers are delegated; without cgroup v2 none can be."""
    known = controllers if isinstance(controllers, list | tuple) else ()
    return Ability(
        rootless=True,
        cpu=unified and "cpu" in known,
        memory=unified and "memory" in known,
        stats=unified,
        lowest_port=lowest_port,
    )


def lacking(manifest: Manifest, config: Config, ability: Ability) -> Iterator[Issue]:
    """Every field that this podman would drop without a word, or could not start with."""
    if not ability.rootless:
        return
    for template in templates(manifest, config):
        yield from _hints(template, ability)
        for path, container in template.containers():
            yield from _resources(template, path, container, ability)
            yield from _ports(template, path, container, ability)
            if not template.spec.get("hostNetwork"):
                yield from _dialed(template, path, container)
    yield from _config(config, ability)


def _resources(template: Template, path: Path, container: Mapping[str, Any], ability: Ability) -> Iterator[Issue]:
    asked = container.get("resources") or {}
    for resource in ("cpu", "memory"):
        if getattr(ability, resource):
            continue
        if resource in (asked.get("limits") or {}):
            at = (*path, "resources", "limits", resource)
            yield found(template.document, at, _not_kept(resource), UNSUPPORTED_FIELD).issue()
        if resource in (asked.get("requests") or {}):
            at = (*path, "resources", "requests", resource)
            message = "rootless podman cannot set anything aside for a container here; the node counts it all the same"
            yield found(template.document, at, message, IGNORED_FIELD, severity=Severity.WARNING).issue()


def _hints(template: Template, ability: Ability) -> Iterator[Issue]:
    for resource, key in _HINTS.items():
        if getattr(ability, resource):
            continue
        for path in (("metadata", "annotations"), (*template.path[:-1], "metadata", "annotations")):
            if key in mapping_at(template.document.body, path):
                yield found(template.document, (*path, key), _not_kept(resource), UNSUPPORTED_FIELD).issue()
                break


def _ports(template: Template, path: Path, container: Mapping[str, Any], ability: Ability) -> Iterator[Issue]:
    for index, port in enumerate(container.get("ports") or ()):
        if 0 < (port.get("hostPort") or 0) < ability.lowest_port:
            message = (
                f"rootless podman cannot publish ports below {ability.lowest_port}, which "
                "net.ipv4.ip_unprivileged_port_start can lower"
            )
            at = (*path, "ports", index, "hostPort")
            yield found(template.document, at, message, UNSUPPORTED_FIELD).issue()


def _dialed(template: Template, path: Path, container: Mapping[str, Any]) -> Iterator[Issue]:
    actions = [((*path, name), container.get(name) or {}) for name in _PROBES]
    lifecycle = container.get("lifecycle") or {}
    actions += [((*path, "lifecycle", name), lifecycle.get(name) or {}) for name in _HOOKS]
    for at, action in actions:
        for name in _DIALED:
            if name in action and not action[name].get("host"):
                message = "rootless podman gives pods no address that the node can reach; use exec, or name a host"
                yield found(template.document, (*at, name), message, UNSUPPORTED_FIELD).issue()


def _config(config: Config, ability: Ability) -> Iterator[Issue]:
    asked = {
        "cpu": ("cpu_cores", config.resources.cpu_cores),
        "memory": ("memory_bytes", config.resources.memory_bytes),
    }
    for resource, (name, value) in asked.items():
        if value is not None and not getattr(ability, resource):
            yield Issue(
                severity=Severity.ERROR,
                field_path=f"config.resources.{name}",
                reason=UNSUPPORTED_FIELD,
                message=_not_kept(resource),
            )


def _not_kept(resource: str) -> str:
    return (
        f"rootless podman cannot limit {resource} here, and would run it without: the {resource} controller is not "
        "delegated to this user (that takes cgroup v2, and Delegate= in its systemd unit)"
    )
