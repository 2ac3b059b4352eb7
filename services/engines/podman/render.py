"""From a workload to what podman is asked to make: pods, their containers, volumes; only what is honoured. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.engines.engine import Resources, Spec
from services.engines.podman import security, shelf, supervision
from services.engines.podman.downward import Facts
from services.engines.podman.environment import environment, expand
from services.engines.podman.hooks import annotation
from services.engines.podman.images import full_reference
from services.engines.podman.labels import (
    LABEL_CONTAINER,
    LABEL_GRACE,
    LABEL_POD,
    LABEL_REPLICA,
    LABEL_ROLE,
    ROLE_INIT,
    ROLE_MAIN,
)
from services.engines.podman.sources import Sources
from services.engines.podman.volumes import Mount, Volume, Volumes
from services.engines.podman.workload import Template, templates
from services.errors import FailedPrecondition
from services.manifests import quantities
from services.manifests.resources import Limits, container_limits

_MIN_CORES = 0.01
"""The kernel's smallest CPU quota, 1 ms in 100 ms; the kubelet raises smaller limits to it too."""
_PERIOD = 100_000
_SHARES_PER_CORE = 1024
_MIN_SHARES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that the pod needs, and when to pull it."""

    reference: str
    """In full."""
    policy: str
    """The manifest's imagePullPolicy; empty where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod."""

    name: str
    """The manifest's."""
    body: Mapping[str, Any] = field(repr=False)
    """What is posted, but for the pod and the mounts; it may hold values of Secrets."""
    mounts: tuple[Mount, ...]
    not_root: bool
    """The image's user must not be root."""
    post_start: Mapping[str, Any] | None = None
    """A container of the manifest with a hook to be run right after the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One replica."""

    name: str
    number: int
    body: Mapping[str, Any]
    inits: tuple[Container, ...]
    """To be run one after the other, before the others."""
    mains: tuple[Container, ...]

    def volumes(self) -> list[Volume]:
        """The volumes that its containers mount, each once."""
        mounts = [mount for container in (*self.inits, *self.mains) for mount in container.mounts]
        found = {mount.source.name: mount.source for mount in mounts if isinstance(mount.source, Volume)}
        return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What podman is asked for."""

    workload_id: str
    pods: tuple[Pod, ...]
    images: tuple[Image, ...]
    """Each once."""


def render(spec: Spec, *, machine: Resources, network: str, log_bytes: int = shelf.DEFAULT_BYTES) -> Plan:
    """Write the pods of a workload; a container's log takes `log_bytes` at most.

    Raises FailedPrecondition for what cannot be left out even by a caller who accepts losses.
    """
    sources = Sources(spec.manifest)
    found = templates(spec.manifest, spec.config)
    if not found:
        raise FailedPrecondition(
            f"workload {spec.workload_id}: engine podman runs Pods and Deployments, the manifest has none",
            reason="UNSUPPORTED_KIND",
        )
    pods = [pod for template in found for pod in _Renderer(spec, template, sources, machine, network, log_bytes).pods()]
    images = [_image(container) for template in found for _, container in template.containers()]
    return Plan(workload_id=spec.workload_id, pods=tuple(pods), images=tuple(dict.fromkeys(images)))


class _Renderer:
    """One document of a workload."""

    def __init__(
        self, spec: Spec, template: Template, sources: Sources, machine: Resources, network: str, log_bytes: int
    ) -> None:
        self._spec = spec
        self._log_bytes = log_bytes
        self._template = template
        self._sources = sources
        self._network = network
        self._limits = _limits(template, spec.config.resources)
        self._facts = Facts(
            template=template,
            labels={**template.labels, **spec.config.labels},
            node_id=spec.ownership.node_id,
            limits=self._limits,
            machine=machine,
        )
        self._volumes = Volumes(spec=spec, facts=self._facts, sources=sources)

    def pods(self) -> Iterable[Pod]:
        return (self._pod(number) for number in range(self._template.replicas))

    def _pod(self, number: int) -> Pod:
        volumes = self._volumes.of_pod(number)
        name = self._template.pod_name(self._spec.workload_id, number)
        inits = [self._container(each, name, number, volumes, ROLE_INIT) for each in self._template.inits]
        mains = [self._container(each, name, number, volumes, ROLE_MAIN) for each in self._template.mains]
        return Pod(name=name, number=number, body=self._pod_body(name, number), inits=tuple(inits), mains=tuple(mains))

    def _pod_body(self, name: str, number: int) -> dict[str, Any]:
        spec = self._template.spec
        shared = ["ipc", "net", "uts", *(["pid"] if spec.get("shareProcessNamespace") else [])]
        body: dict[str, Any] = {
            "name": name,
            "labels": self._labels(name, number),
            "hostname": self._template.hostname,
            "shared_namespaces": shared,
            "exit_policy": "continue",  # its network outlives its containers, for the restarted ones
            "hostadd": _hosts(spec),
            **_dns(spec),
        }
        if spec.get("hostNetwork"):
            return {**body, "netns": {"nsmode": "host"}}
        return {
            **body,
            "netns": {"nsmode": "bridge"},
            "Networks": {self._network: {}},
            "portmappings": [
                _port(port)
                for container in self._template.mains
                for port in container.get("ports") or ()
                if port.get("hostPort")
            ],
        }

    def _labels(self, pod: str, number: int) -> dict[str, str]:
        return {
            **self._facts.labels,
            **self._spec.ownership.labels(),
            LABEL_POD: pod,
            LABEL_REPLICA: str(number),
            LABEL_GRACE: str(self._template.grace_seconds),
        }

    def _container(
        self, container: Mapping[str, Any], pod: str, number: int, volumes: Mapping[str, Volume | str], role: str
    ) -> Container:
        pod_spec = self._template.spec
        env = environment(container, facts=self._facts, sources=self._sources, extra=self._spec.config.env)
        orders = {} if role == ROLE_INIT else supervision.annotation(pod_spec, container)
        body: dict[str, Any] = {
            "name": f"{pod}-{container['name']}",
            "image": _image(container).reference,
            "labels": {**self._labels(pod, number), LABEL_CONTAINER: container["name"], LABEL_ROLE: role},
            "annotations": {**self._template.annotations, **annotation(container), **orders},
            "env": {"HOSTNAME": self._template.hostname, **env},
            "terminal": bool(container.get("tty")),
            "restart_policy": "no",  # the engine restarts containers itself, and counts
            "stop_timeout": self._template.grace_seconds,
            "log_configuration": {"driver": "k8s-file", "size": self._log_bytes // shelf.FILES},
            "image_volume_mode": "anonymous",
            "resource_limits": _room(container, self._limits[container["name"]]),
            **security.settings(pod_spec, container),
        }
        if role == ROLE_INIT:
            body["init_container_type"] = "always"
        if container.get("workingDir"):
            body["work_dir"] = container["workingDir"]
        for field_, key in (("command", "entrypoint"), ("args", "command")):
            if container.get(field_):
                body[key] = [expand(word, env) for word in container[field_]]
        return Container(
            name=container["name"],
            body=body,
            mounts=tuple(self._volumes.mounts(container, volumes, env)),
            not_root=security.must_not_be_root(pod_spec, container),
            post_start=container if (container.get("lifecycle") or {}).get("postStart") else None,
        )


def _image(container: Mapping[str, Any]) -> Image:
    try:
        return Image(reference=full_reference(container.get("image", "")), policy=container.get("imagePullPolicy", ""))
    except ValueError as error:
        raise FailedPrecondition(
            f"container {container['name']}: {error}", reason="IMAGE_NOT_FOUND", metadata={"image": container["image"]}
        ) from error


def _hosts(spec: Mapping[str, Any]) -> list[str]:
    aliases = spec.get("hostAliases") or ()
    return [f"{host}:{alias['ip']}" for alias in aliases for host in alias.get("hostnames") or ()]


def _dns(spec: Mapping[str, Any]) -> dict[str, Any]:
    config = spec.get("dnsConfig") or {}
    options = [
        f"{option['name']}:{option['value']}" if option.get("value") else option["name"]
        for option in config.get("options") or ()
    ]
    made = {
        "dns_server": list(config.get("nameservers") or ()),
        "dns_search": list(config.get("searches") or ()),
        "dns_option": options,
    }
    return {name: value for name, value in made.items() if value}


def _port(port: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "container_port": port["containerPort"],
        "host_port": port["hostPort"],
        "host_ip": port.get("hostIP") or "",
        "protocol": (port.get("protocol") or "TCP").lower(),
    }


def _room(container: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Limits and requests; memory is never swapped out, as in Kubernetes."""
    requests = (container.get("resources") or {}).get("requests") or {}
    memory: dict[str, int] = {}
    cpu: dict[str, int] = {}
    if limits.memory_bytes is not None:
        memory = {"limit": limits.memory_bytes, "swap": limits.memory_bytes}
    if "memory" in requests:
        asked = quantities.memory(requests["memory"])
        memory["reservation"] = asked if limits.memory_bytes is None else min(asked, limits.memory_bytes)
    if limits.cpu_cores is not None:
        cpu = {"quota": math.ceil(round(max(limits.cpu_cores, _MIN_CORES) * _PERIOD, 3)), "period": _PERIOD}
    if "cpu" in requests:
        cpu["shares"] = max(_MIN_SHARES, math.ceil(quantities.cpu(requests["cpu"]) * _SHARES_PER_CORE))
    return {name: value for name, value in (("memory", memory), ("cpu", cpu)) if value}


def _limits(template: Template, room: Resources) -> Mapping[str, Limits]:
    """The manifest's limits, its hints counted in, under the ceiling that the caller's config sets for a replica."""
    limits = container_limits(template.document)
    running = [container["name"] for container in template.mains]
    cores = under([limits[name].cpu_cores for name in running], room.cpu_cores)
    memory = under([limits[name].memory_bytes for name in running], room.memory_bytes)
    made = {
        name: Limits(cpu_cores=core, memory_bytes=None if size is None else int(size))
        for name, core, size in zip(running, cores, memory, strict=True)
    }
    for container in template.inits:  # they run one by one, so each may have it all
        own = limits[container["name"]]
        (core,), (size,) = under([own.cpu_cores], room.cpu_cores), under([own.memory_bytes], room.memory_bytes)
        made[container["name"]] = Limits(cpu_cores=core, memory_bytes=None if size is None else int(size))
    return made


def under(limits: Sequence[float | None], ceiling: float | None) -> list[float | None]:
    """Limits that together stay under the ceiling: given ones shrink alike, the others share evenly what is left."""
    if ceiling is None:
        return list(limits)
    own = sum(limit for limit in limits if limit is not None)
    unlimited = sum(limit is None for limit in limits)
    if unlimited and own >= ceiling:
        part = ceiling / len(limits)
        return [part if limit is None else min(limit, part) for limit in limits]
    share = (ceiling - own) / unlimited if unlimited else 0.0
    factor = min(1.0, ceiling / own) if own else 1.0
    return [share if limit is None else limit * factor for limit in limits]
