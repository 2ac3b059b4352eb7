"""What docker's inspections say: states, reasons, ports, times, owners. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from services.engines.engine import ExitStatus, PortMapping, WorkloadState
from services.identity import (
    LABEL_DEPLOYMENT_ID,
    LABEL_MANIFEST_HASH,
    LABEL_NODE_ID,
    LABEL_WORKLOAD_ID,
    Ownership,
)

Inspected = Mapping[str, Any]

_STATES = {
    "created": WorkloadState.PENDING,
    "configured": WorkloadState.PENDING,
    "initialized": WorkloadState.STARTING,
    "running": WorkloadState.RUNNING,
    "restarting": WorkloadState.STARTING,
    "paused": WorkloadState.DEGRADED,
    "stopping": WorkloadState.STOPPING,
    "removing": WorkloadState.STOPPING,
}
"""Docker's words, and the more that podman has."""
_ENDED = frozenset({"exited", "stopped", "dead"})
_LAST_WORDS = 200
_FRACTION = re.compile(r"(\.\d{1,6})\d*")


def labels_of(container: Inspected) -> Mapping[str, str]:
    """Its labels."""
    found: Mapping[str, str] = (container.get("Config") or {}).get("Labels") or {}
    return found


def ownership(marks: Mapping[str, str]) -> Ownership:
    """Whose it is, by its labels, which have a node's and a workload's id."""
    return Ownership(
        node_id=marks[LABEL_NODE_ID],
        deployment_id=marks.get(LABEL_DEPLOYMENT_ID, ""),
        workload_id=marks[LABEL_WORKLOAD_ID],
        manifest_hash=marks.get(LABEL_MANIFEST_HASH, ""),
    )


def state_of(state: Inspected) -> tuple[WorkloadState, ExitStatus | None]:
    """What its `State` comes to, and how it ended if it has."""
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


def reason_of(state: Inspected, status: WorkloadState, ended: ExitStatus | None, health: str) -> tuple[str, str]:
    """Why it is in that state, in a word and in words; empty where that needs no reason."""
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


def ports_of(containers: Iterable[Inspected]) -> tuple[PortMapping, ...]:
    """The published ports of all of them, each once."""
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


def seconds(time: object) -> float | None:
    """Docker's times (RFC 3339 with nanoseconds, in UTC) since 1970; None for its "never"."""
    if not isinstance(time, str) or not time or time.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(_FRACTION.sub(r"\1", time)).timestamp()
    except ValueError:
        return None
