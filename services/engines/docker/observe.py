"""From docker's inspections to what the engine reports of its workloads. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.engines.compose.stamp import Hashes
from services.engines.docker import labels
from services.engines.engine import Component, ExitStatus, Observation, PortMapping, WorkloadState
from services.identity import (
    LABEL_DEPLOYMENT_ID,
    LABEL_MANIFEST_HASH,
    LABEL_NODE_ID,
    LABEL_WORKLOAD_ID,
    Ownership,
    owned_by,
)

Inspected = Mapping[str, Any]

_STATES = {
    "created": WorkloadState.PENDING,
    "running": WorkloadState.RUNNING,
    "restarting": WorkloadState.STARTING,
    "paused": WorkloadState.DEGRADED,
    "removing": WorkloadState.STOPPING,
}
_ENDED = frozenset({"exited", "dead"})
_LAST_WORDS = 200
_FRACTION = re.compile(r"(\.\d{1,6})\d*")


def assemble(node_id: str, containers: Iterable[Inspected], networks: Iterable[Inspected]) -> dict[str, Observation]:
    """All workloads of the node by id, those of which only a network is left included."""
    mine: dict[str, list[Inspected]] = {}
    for container in containers:
        if owned_by(marks := container_labels(container), node_id):
            mine.setdefault(marks[LABEL_WORKLOAD_ID], []).append(container)
    found = {workload_id: _observation(sorted(group, key=_order)) for workload_id, group in mine.items()}
    for network in networks:
        if owned_by(marks := network.get("Labels") or {}, node_id):
            found.setdefault(marks[LABEL_WORKLOAD_ID], Observation(ownership=_ownership(marks), components=()))
    return found


def container_labels(container: Inspected) -> Mapping[str, str]:
    """Its labels."""
    found: Mapping[str, str] = (container.get("Config") or {}).get("Labels") or {}
    return found


def hashes(containers: Iterable[Inspected], networks: Iterable[Inspected], volumes: Iterable[Inspected]) -> Hashes:
    """Of which content each service, network and volume was made that is there."""

    def known(each: Iterable[Mapping[str, str]], name: str) -> dict[str, str]:
        return {
            marks[name]: marks[LABEL_MANIFEST_HASH] for marks in each if {name, LABEL_MANIFEST_HASH} <= marks.keys()
        }

    return Hashes(
        services=known(map(container_labels, containers), labels.SERVICE),
        networks=known((item.get("Labels") or {} for item in networks), labels.NETWORK),
        volumes=known((item.get("Labels") or {} for item in volumes), labels.VOLUME),
    )


def _observation(containers: Sequence[Inspected]) -> Observation:
    newest = max(containers, key=lambda container: str(container.get("Created", "")))
    created = (seconds(container.get("Created")) for container in containers)
    return Observation(
        ownership=_ownership(container_labels(newest)),
        components=tuple(map(component, containers)),
        ports=_ports(containers),
        create_time=min((time for time in created if time is not None), default=None),
        details={
            "project": container_labels(newest).get(labels.PROJECT, ""),
            "containers": [str(container.get("Name", "")).removeprefix("/") for container in containers],
        },
    )


def _ownership(marks: Mapping[str, str]) -> Ownership:
    return Ownership(
        node_id=marks[LABEL_NODE_ID],
        deployment_id=marks.get(LABEL_DEPLOYMENT_ID, ""),
        workload_id=marks[LABEL_WORKLOAD_ID],
        manifest_hash=marks.get(LABEL_MANIFEST_HASH, ""),
    )


def component(container: Inspected) -> Component:
    """One container."""
    state = container.get("State") or {}
    status, ended = _state(state)
    health = str((state.get("Health") or {}).get("Status", "none"))
    reason, message = _reason(state, status, ended, health)
    marks = container_labels(container)
    return Component(
        component_id=str(container["Id"]),
        display_name=marks.get(labels.SERVICE, "") or str(container.get("Name", "")).removeprefix("/"),
        image=str((container.get("Config") or {}).get("Image", "")),
        state=status,
        reason=reason,
        message=message,
        restart_count=int(container.get("RestartCount") or 0),
        start_time=seconds(state.get("StartedAt")),
        exit_status=ended,
        replica=number(container) - 1,
        ready=None if health == "none" else health == "healthy",
        ready_once=health in ("healthy", "unhealthy"),  # docker calls sick what should long have been well
    )


def _state(state: Inspected) -> tuple[WorkloadState, ExitStatus | None]:
    word = str(state.get("Status", ""))
    if word not in _ENDED:
        return _STATES.get(word, WorkloadState.UNKNOWN), None
    code, killed = int(state.get("ExitCode") or 0), bool(state.get("OOMKilled"))
    failed = bool(code) or killed or word == "dead"
    ended = ExitStatus(
        exit_code=code,
        oom_killed=killed,
        finish_time=seconds(state.get("FinishedAt")),
        reason="OOMKilled" if killed else "Error" if failed else "Completed",
    )
    return WorkloadState.FAILED if failed else WorkloadState.SUCCEEDED, ended


def _reason(state: Inspected, status: WorkloadState, ended: ExitStatus | None, health: str) -> tuple[str, str]:
    if ended is not None:
        if ended.oom_killed:
            return "OOMKilled", "the kernel killed it: it used more memory than its limit"
        if status is WorkloadState.FAILED:
            return "Error", str(state.get("Error") or f"exited with {ended.exit_code}")
        return "Completed", ""
    word = state.get("Status")
    if word == "restarting":
        return "CrashLoopBackOff", f"exited with {state.get('ExitCode')}; docker starts it again"
    if word == "paused":
        return "Paused", "paused by docker pause"
    if word == "created" and state.get("Error"):
        return "StartError", str(state["Error"])
    if word == "running" and health == "unhealthy":
        checks = (state.get("Health") or {}).get("Log") or [{}]
        return "Unhealthy", f"its healthcheck fails: {str(checks[-1].get('Output', '')).strip()[-_LAST_WORDS:]}"
    return "", ""


def _ports(containers: Iterable[Inspected]) -> tuple[PortMapping, ...]:
    found = set()
    for container in containers:
        published = (container.get("NetworkSettings") or {}).get("Ports") or {}
        for name, bindings in published.items():
            port, _, protocol = name.partition("/")
            found |= {
                PortMapping(
                    container_port=int(port),
                    host_port=int(binding["HostPort"]),
                    host_ip=_host_ip(binding.get("HostIp")),
                    protocol=protocol.upper(),
                )
                for binding in bindings or ()
                if binding.get("HostPort")
            }
    return tuple(sorted(found, key=lambda port: (port.container_port, port.host_port, port.host_ip, port.protocol)))


def _host_ip(address: object) -> str:
    """Empty for every address, of either family: docker lists them as two."""
    return "" if address in (None, "", "0.0.0.0", "::") else str(address)  # noqa: S104 - compared, not bound


def _order(container: Inspected) -> tuple[str, int]:
    return container_labels(container).get(labels.SERVICE, ""), number(container)


def number(container: Inspected) -> int:
    """Which of its service's containers it is, from 1."""
    text = container_labels(container).get(labels.NUMBER, "")
    return int(text) if text.isdecimal() and int(text) > 0 else 1


def seconds(time: object) -> float | None:
    """Docker's times (RFC 3339 with nanoseconds, in UTC) since 1970; None for its "never"."""
    if not isinstance(time, str) or not time or time.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(_FRACTION.sub(r"\1", time)).timestamp()
    except ValueError:
        return None
