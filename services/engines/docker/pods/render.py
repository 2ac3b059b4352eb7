"""From a workload to docker's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engines.compose.stamp import LogCap
from services.engines.docker.pods import labels, security
from services.engines.engine import Resources, Spec
from services.engines.pods import render as pods
from services.engines.pods.labels import LABEL_ROLE, ROLE_INFRA
from services.engines.pods.limits import CPU_PERIOD, Room
from services.engines.pods.plan import Plan
from services.engines.pods.render import Asked, Renderer, dns_options, hosts
from services.engines.pods.workload import Template

_LEAST_MEMORY = 6 << 20
"""Docker takes no smaller limit, and no smaller reservation either, though that is only a wish."""

NETWORK, INFRA, SHARES_PROCESSES = "network", "infra", "shares_processes"
"""The parts of a pod's body: the network of all pods of the workload, if it is not the machine's; what holds it."""


def render(spec: Spec, *, machine: Resources, log_cap: LogCap, own_pause: bool = True) -> Plan:
    """See `pods.render.render`; a container's log takes what `log_cap` says.

    `own_pause`: the infra containers run our own program, which takes an argument.
    """

    def renderer(template: Template) -> Renderer:
        return _Renderer(spec, template, machine, log_cap=log_cap, own_pause=own_pause)

    return pods.render(spec, renderer, engine="docker")


class _Renderer(Renderer):
    def __init__(self, spec: Spec, template: Template, machine: Resources, *, log_cap: LogCap, own_pause: bool) -> None:
        super().__init__(spec, template, machine)
        self._log_cap = log_cap
        self._own_pause = own_pause

    def pod_body(self, name: str, labels_: Mapping[str, str], number: int) -> Mapping[str, Any]:
        """The network, if it is not the machine's, and the container that holds what the pod shares."""
        spec, ownership = self._template.spec, self._spec.ownership
        on_host = bool(spec.get("hostNetwork"))
        config = spec.get("dnsConfig") or {}
        infra: dict[str, Any] = {
            "Hostname": self._template.hostname,
            "Labels": {
                **labels_,
                **labels.of_service(ownership, labels.INFRA, number),
                LABEL_ROLE: ROLE_INFRA,
            },
            "StopSignal": "SIGKILL",
            "HostConfig": {
                "NetworkMode": "host" if on_host else ownership.workload_id,
                "IpcMode": "shareable",
                "RestartPolicy": {"Name": "no"},
                "LogConfig": {"Type": "none"},
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ExtraHosts": hosts(spec),
                "Dns": list(config.get("nameservers") or ()),
                "DnsSearch": list(config.get("searches") or ()),
                "DnsOptions": dns_options(spec),
                **({} if on_host else {"PortBindings": self._bindings()}),
            },
        }
        if not on_host:
            infra["ExposedPorts"] = {port: {} for port in self._bindings()}
        if self._own_pause and config.get("nameservers"):
            infra["Cmd"] = [_resolver(config, dns_options(spec))]
        network = {
            "Name": ownership.workload_id,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Labels": labels.of_network(ownership),
        }
        return {
            INFRA: infra,
            NETWORK: None if on_host else network,
            SHARES_PROCESSES: bool(spec.get("shareProcessNamespace")),
        }

    def container_body(self, asked: Asked) -> Mapping[str, Any]:
        """A container; what it shares with its pod is added when that is there."""
        spec = self._template.spec
        name = asked.manifest["name"]
        service = name if self._template.alone else f"{self._template.name}-{name}"
        body: dict[str, Any] = {
            "Image": asked.image,
            "Labels": {
                **asked.labels,
                **asked.notes,
                **labels.of_service(self._spec.ownership, service, asked.number),
            },
            "Env": [f"{name}={value}" for name, value in asked.env.items()],
            "Tty": bool(asked.manifest.get("tty")),
            "StopTimeout": self._template.grace_seconds,
            "Healthcheck": {"Test": ["NONE"]},  # the image's: Kubernetes knows none but the manifest's probes
            "HostConfig": {
                "RestartPolicy": {"Name": "no"},  # the engine restarts containers itself, and counts
                "LogConfig": {
                    "Type": "json-file",
                    "Config": {"max-size": self._log_cap.max_size, "max-file": str(self._log_cap.max_files)},
                },
                **({"PidMode": "host"} if spec.get("hostPID") else {}),
                **({"IpcMode": "host"} if spec.get("hostIPC") else {}),
                **_room(asked.room),
                **security.settings(spec, asked.manifest),
            },
        }
        wanted = {"WorkingDir": asked.manifest.get("workingDir"), "Entrypoint": asked.command, "Cmd": asked.args}
        return {**body, **{name: value for name, value in wanted.items() if value}}

    def _bindings(self) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {}
        for port in self.host_ports():
            name = f"{port['containerPort']}/{(port.get('protocol') or 'TCP').lower()}"
            binding = {"HostIp": port.get("hostIP") or "", "HostPort": str(port["hostPort"])}
            found.setdefault(name, []).append(binding)
        return found


def _resolver(config: Mapping[str, Any], options: list[str]) -> str:
    """A resolv.conf; docker's own names nobody but docker in a network that is not its default one."""
    lines = [f"nameserver {server}" for server in config.get("nameservers") or ()]
    if searches := config.get("searches"):
        lines.append(f"search {' '.join(searches)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join([*lines, ""])


def _room(room: Room) -> dict[str, Any]:
    """Limits and requests; memory is never swapped out, as in Kubernetes."""
    made: dict[str, int | None] = {
        "Memory": room.memory_bytes,
        "MemorySwap": room.memory_bytes,
        "MemoryReservation": None if room.memory_wanted is None else max(room.memory_wanted, _LEAST_MEMORY),
        "CpuQuota": room.cpu_quota,
        "CpuPeriod": None if room.cpu_quota is None else CPU_PERIOD,
        "CpuShares": room.cpu_shares,
    }
    return {name: value for name, value in made.items() if value is not None}
