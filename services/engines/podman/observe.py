"""From podman's lists of pods and containers to what the engine reports of its workloads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.engines.engine import Component, ExitStatus, Observation, PortMapping, Role, WorkloadState
from services.engines.podman.oom import Life
from services.engines.pods.labels import LABEL_CONTAINER, LABEL_REPLICA, LABEL_ROLE, ROLE_INIT
from services.identity import (
    LABEL_DEPLOYMENT_ID,
    LABEL_MANIFEST_HASH,
    LABEL_NODE_ID,
    LABEL_WORKLOAD_ID,
    Ownership,
    owned_by,
)

Listed = Mapping[str, Any]
"""An entry of podman's list, or its inspection."""

_STATES = {
    "created": WorkloadState.PENDING,
    "configured": WorkloadState.PENDING,
    "initialized": WorkloadState.STARTING,
    "running": WorkloadState.RUNNING,
    "paused": WorkloadState.DEGRADED,
    "stopping": WorkloadState.STOPPING,
    "removing": WorkloadState.STOPPING,
}
_KILLED = 137
_ENDED = frozenset({"stopped", "exited"})
"""`stopped`: the process is gone, podman has yet to clean up."""


def assemble(
    node_id: str, pods: Iterable[Listed], containers: Iterable[Listed], details: Mapping[str, Listed]
) -> dict[str, Observation]:
    """All workloads of the node by id; `details` are inspections by container id, for those that have one."""
    by_pod: dict[str, list[Listed]] = {}
    for container in containers:
        by_pod.setdefault(container.get("Pod", ""), []).append(container)
    by_workload: dict[str, list[Listed]] = {}
    for pod in pods:
        labels = pod.get("Labels") or {}
        if owned_by(labels, node_id):
            by_workload.setdefault(labels[LABEL_WORKLOAD_ID], []).append(pod)
    return {
        workload_id: _observation(sorted(mine, key=_order), by_pod, details)
        for workload_id, mine in by_workload.items()
    }


def fingerprint(container: Listed) -> tuple[object, ...]:
    """Changes whenever an inspection would say something new about a container."""
    return tuple(container.get(key) for key in ("State", "Pid", "StartedAt", "ExitedAt", "ExitCode"))


def unexplained(container: str, inspected: Listed) -> Life | None:
    """The life of a container that had a limit of memory and was killed, and podman does not say by whom."""
    state = inspected.get("State") or {}
    start, finish = seconds(state.get("StartedAt")), seconds(state.get("FinishedAt"))
    limited = bool((inspected.get("HostConfig") or {}).get("Memory"))
    killed = state.get("ExitCode") == _KILLED and not state.get("OOMKilled") and not state.get("Running")
    if not (limited and killed) or start is None or finish is None:
        return None
    return Life(container=container, start_time=start, finish_time=finish)


def _observation(
    pods: Sequence[Listed], by_pod: Mapping[str, Sequence[Listed]], details: Mapping[str, Listed]
) -> Observation:
    labels = pods[0]["Labels"]
    listed = [(pod, container) for pod in pods for container in by_pod.get(pod["Id"], [])]
    return Observation(
        ownership=Ownership(
            node_id=labels[LABEL_NODE_ID],
            deployment_id=labels.get(LABEL_DEPLOYMENT_ID, ""),
            workload_id=labels[LABEL_WORKLOAD_ID],
            manifest_hash=labels.get(LABEL_MANIFEST_HASH, ""),
        ),
        components=tuple(_component(pod, container, details.get(container["Id"])) for pod, container in listed),
        ports=_ports(container for _, container in listed),
        create_time=min((time for pod in pods if (time := seconds(pod.get("Created"))) is not None), default=None),
        details={"pods": [pod["Name"] for pod in pods]},
    )


def _component(pod: Listed, container: Listed, detail: Listed | None) -> Component:
    state, exit_status = _state(container, detail)
    reason, message = _reason(container, state, exit_status)
    started = (detail or {}).get("State", {}).get("StartedAt") or container.get("StartedAt")
    return Component(
        component_id=container["Id"],
        display_name=display_name(pod, container),
        image=container.get("Image", ""),
        state=state,
        reason=reason,
        message=message,
        restart_count=int((detail or {}).get("RestartCount", container.get("Restarts", 0)) or 0),
        start_time=seconds(started),
        exit_status=exit_status,
        replica=_replica(pod),
        role=Role.INIT if (container.get("Labels") or {}).get(LABEL_ROLE) == ROLE_INIT else Role.MAIN,
    )


def display_name(pod: Listed, container: Listed) -> str:
    """The container's name in the manifest."""
    if known := (container.get("Labels") or {}).get(LABEL_CONTAINER):
        return str(known)
    name: str = (container.get("Names") or [container["Id"][:12]])[0]
    return name.removeprefix(f"{pod['Name']}-")


def _state(container: Listed, detail: Listed | None) -> tuple[WorkloadState, ExitStatus | None]:
    word = str(container.get("State", "")).lower()
    if word not in _ENDED:
        return _STATES.get(word, WorkloadState.UNKNOWN), None
    facts = (detail or {}).get("State", {})
    code = int(facts.get("ExitCode", container.get("ExitCode", 0)))
    ended = ExitStatus(
        exit_code=code,
        oom_killed=bool(facts.get("OOMKilled")),
        finish_time=seconds(facts.get("FinishedAt") or container.get("ExitedAt")),
    )
    return WorkloadState.FAILED if code or ended.oom_killed else WorkloadState.SUCCEEDED, ended


def _reason(container: Listed, state: WorkloadState, ended: ExitStatus | None) -> tuple[str, str]:
    if ended is None:
        return ("Paused", "paused by podman pause") if container.get("State") == "paused" else ("", "")
    if ended.oom_killed:
        return "OOMKilled", "the kernel killed it: it used more memory than its limit"
    if state is WorkloadState.FAILED:
        return "Error", f"exited with {ended.exit_code}"
    return "Completed", ""


def _ports(containers: Iterable[Listed]) -> tuple[PortMapping, ...]:
    """All containers of a pod list the ports of the pod; neighbouring ones come as one range."""
    found = {
        PortMapping(
            container_port=port["container_port"] + offset,
            host_port=port["host_port"] + offset,
            host_ip=port.get("host_ip") or "",
            protocol=protocol.upper(),
        )
        for container in containers
        for port in container.get("Ports") or []
        for offset in range(port.get("range") or 1)
        for protocol in (port.get("protocol") or "tcp").split(",")
    }
    return tuple(sorted(found, key=lambda port: (port.container_port, port.host_port, port.host_ip, port.protocol)))


def _order(pod: Listed) -> tuple[str, int]:
    """By document, then by number."""
    return str(pod.get("Name", "")).rpartition("-")[0], _replica(pod)


def _replica(pod: Listed) -> int:
    number = (pod.get("Labels") or {}).get(LABEL_REPLICA, "") or str(pod.get("Name", "")).rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def seconds(time: object) -> float | None:
    """Podman's times (RFC 3339 with nanoseconds, or Unix seconds) since 1970; None for its "never"."""
    if isinstance(time, int | float):
        return float(time) if time > 0 else None
    if not isinstance(time, str) or not time or time.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None
