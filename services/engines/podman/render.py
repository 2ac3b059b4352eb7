"""From a workload to what podman is asked to make: pods, their containers, volumes; only what is honoured. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.engines.engine import Resources, Spec
from services.engines.podman import security, shelf
from services.engines.pods import supervision
from services.engines.pods.downward import Facts
from services.engines.pods.environment import environment, expand
from services.engines.pods.hooks import annotation
from services.engines.pods.images import image_of
from services.engines.pods.labels import (
    LABEL_CONTAINER,
    LABEL_GRACE,
    LABEL_POD,
    LABEL_REPLICA,
    LABEL_ROLE,
    ROLE_INIT,
    ROLE_MAIN,
)
from services.engines.pods.limits import CPU_PERIOD, Room, limits_of, room_of
from services.engines.pods.plan import Container, Plan, Pod
from services.engines.pods.security import must_not_be_root, user
from services.engines.pods.sources import Sources
from services.engines.pods.volumes import Volume, Volumes
from services.engines.pods.workload import Template, templates
from services.errors import FailedPrecondition


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
    images = [image_of(container) for template in found for _, container in template.containers()]
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
        self._limits = limits_of(template, spec.config.resources)
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
        image = image_of(container).reference
        body: dict[str, Any] = {
            "name": f"{pod}-{container['name']}",
            "image": image,
            "labels": {**self._labels(pod, number), LABEL_CONTAINER: container["name"], LABEL_ROLE: role},
            "annotations": {**self._template.annotations, **annotation(container), **orders},
            "env": {"HOSTNAME": self._template.hostname, **env},
            "terminal": bool(container.get("tty")),
            "restart_policy": "no",  # the engine restarts containers itself, and counts
            "stop_timeout": self._template.grace_seconds,
            "log_configuration": {"driver": "k8s-file", "size": self._log_bytes // shelf.FILES},
            "image_volume_mode": "anonymous",
            "resource_limits": _room(room_of(container, self._limits[container["name"]])),
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
            image=image,
            user=user(pod_spec, container),
            mounts=tuple(self._volumes.mounts(container, volumes, env)),
            not_root=must_not_be_root(pod_spec, container),
            post_start=container if (container.get("lifecycle") or {}).get("postStart") else None,
        )


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


def _room(room: Room) -> dict[str, Any]:
    """Limits and requests; memory is never swapped out, as in Kubernetes."""
    memory: dict[str, int] = {}
    cpu: dict[str, int] = {}
    if room.memory_bytes is not None:
        memory = {"limit": room.memory_bytes, "swap": room.memory_bytes}
    if room.memory_wanted is not None:
        memory["reservation"] = room.memory_wanted
    if room.cpu_quota is not None:
        cpu = {"quota": room.cpu_quota, "period": CPU_PERIOD}
    if room.cpu_shares is not None:
        cpu["shares"] = room.cpu_shares
    return {name: value for name, value in (("memory", memory), ("cpu", cpu)) if value}
