"""From a workload to podman's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engines.engine import Resources, Spec
from services.engines.podman import security, shelf
from services.engines.pods import render as pods
from services.engines.pods.labels import ROLE_INIT
from services.engines.pods.limits import CPU_PERIOD, Room
from services.engines.pods.plan import Plan
from services.engines.pods.render import Asked, Renderer, dns_options, hosts
from services.engines.pods.workload import Template


def render(spec: Spec, *, machine: Resources, network: str, log_bytes: int = shelf.DEFAULT_BYTES) -> Plan:
    """See `pods.render.render`; pods join `network`, and a container's log takes `log_bytes` at most."""

    def renderer(template: Template) -> Renderer:
        return _Renderer(spec, template, machine, network=network, log_bytes=log_bytes)

    return pods.render(spec, renderer, engine="podman")


class _Renderer(Renderer):
    def __init__(self, spec: Spec, template: Template, machine: Resources, *, network: str, log_bytes: int) -> None:
        super().__init__(spec, template, machine)
        self._network = network
        self._log_bytes = log_bytes

    def pod_body(self, name: str, labels: Mapping[str, str], number: int) -> Mapping[str, Any]:
        """A pod."""
        spec = self._template.spec
        shared = ["ipc", "net", "uts", *(["pid"] if spec.get("shareProcessNamespace") else [])]
        body: dict[str, Any] = {
            "name": name,
            "labels": labels,
            "hostname": self._template.hostname,
            "shared_namespaces": shared,
            "exit_policy": "continue",  # its network outlives its containers, for the restarted ones
            "hostadd": hosts(spec),
            **_dns(spec),
        }
        if spec.get("hostNetwork"):
            return {**body, "netns": {"nsmode": "host"}}
        return {
            **body,
            "netns": {"nsmode": "bridge"},
            "Networks": {self._network: {}},
            "portmappings": [_port(port) for port in self.host_ports()],
        }

    def container_body(self, asked: Asked) -> Mapping[str, Any]:
        """A container."""
        body: dict[str, Any] = {
            "name": asked.name,
            "image": asked.image,
            "labels": asked.labels,
            "annotations": {**self._template.annotations, **asked.notes},
            "env": asked.env,
            "terminal": bool(asked.manifest.get("tty")),
            "restart_policy": "no",  # the engine restarts containers itself, and counts
            "stop_timeout": self._template.grace_seconds,
            "log_configuration": {"driver": "k8s-file", "size": self._log_bytes // shelf.FILES},
            "image_volume_mode": "anonymous",
            "resource_limits": _room(asked.room),
            **security.settings(self._template.spec, asked.manifest),
        }
        if asked.role == ROLE_INIT:
            body["init_container_type"] = "always"
        wanted = {"work_dir": asked.manifest.get("workingDir"), "entrypoint": asked.command, "command": asked.args}
        return {**body, **{name: value for name, value in wanted.items() if value}}


def _dns(spec: Mapping[str, Any]) -> dict[str, Any]:
    config = spec.get("dnsConfig") or {}
    made = {
        "dns_server": list(config.get("nameservers") or ()),
        "dns_search": list(config.get("searches") or ()),
        "dns_option": dns_options(spec),
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
