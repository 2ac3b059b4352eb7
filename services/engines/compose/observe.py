"""From inspections of a project's containers to what the engine reports of its workloads. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from services.engines.compose import labels
from services.engines.compose.stamp import Hashes
from services.engines.docker_api import inspected
from services.engines.docker_api.inspected import Inspected
from services.engines.engine import Component, Observation
from services.identity import LABEL_MANIFEST_HASH, LABEL_WORKLOAD_ID, owned_by


def assemble(node_id: str, containers: Iterable[Inspected], networks: Iterable[Inspected]) -> dict[str, Observation]:
    """All workloads of the node by id, those of which only a network is left included."""
    mine: dict[str, list[Inspected]] = {}
    for container in containers:
        if owned_by(marks := inspected.labels_of(container), node_id):
            mine.setdefault(marks[LABEL_WORKLOAD_ID], []).append(container)
    found = {workload_id: _observation(sorted(group, key=_order)) for workload_id, group in mine.items()}
    for network in networks:
        if owned_by(marks := network.get("Labels") or {}, node_id):
            found.setdefault(marks[LABEL_WORKLOAD_ID], Observation(ownership=inspected.ownership(marks), components=()))
    return found


def hashes(containers: Iterable[Inspected], networks: Iterable[Inspected], volumes: Iterable[Inspected]) -> Hashes:
    """Of which content each service, network and volume was made that is there."""

    def known(each: Iterable[Mapping[str, str]], name: str) -> dict[str, str]:
        return {
            marks[name]: marks[LABEL_MANIFEST_HASH] for marks in each if {name, LABEL_MANIFEST_HASH} <= marks.keys()
        }

    return Hashes(
        services=known(map(inspected.labels_of, containers), labels.SERVICE),
        networks=known((item.get("Labels") or {} for item in networks), labels.NETWORK),
        volumes=known((item.get("Labels") or {} for item in volumes), labels.VOLUME),
    )


def _observation(containers: Sequence[Inspected]) -> Observation:
    newest = max(containers, key=lambda container: str(container.get("Created", "")))
    created = (inspected.seconds(container.get("Created")) for container in containers)
    return Observation(
        ownership=inspected.ownership(inspected.labels_of(newest)),
        components=_components(containers),
        ports=inspected.ports_of(containers),
        create_time=min((time for time in created if time is not None), default=None),
        details={
            "project": inspected.labels_of(newest).get(labels.PROJECT, ""),
            "containers": [str(container.get("Name", "")).removeprefix("/") for container in containers],
        },
    )


def _components(containers: Sequence[Inspected]) -> tuple[Component, ...]:
    """In their order. A replica is counted, and not called by its number: Compose does not give one out twice."""
    counts: Counter[str] = Counter()
    found = []
    for container in containers:
        service = inspected.labels_of(container).get(labels.SERVICE, "")
        found.append(component(container, replica=counts[service]))
        counts[service] += 1
    return tuple(found)


def component(container: Inspected, *, replica: int = 0) -> Component:
    """One container."""
    state = container.get("State") or {}
    status, ended = inspected.state_of(state)
    health = str((state.get("Health") or {}).get("Status") or "none")
    reason, message = inspected.reason_of(state, status, ended, health)
    marks = inspected.labels_of(container)
    return Component(
        component_id=str(container["Id"]),
        display_name=marks.get(labels.SERVICE, "") or str(container.get("Name", "")).removeprefix("/"),
        image=str((container.get("Config") or {}).get("Image", "")),
        state=status,
        reason=reason,
        message=message,
        restart_count=int(container.get("RestartCount") or 0),
        start_time=inspected.seconds(state.get("StartedAt")),
        exit_status=ended,
        replica=replica,
        ready=None if health == "none" else health == "healthy",
        ready_once=health in ("healthy", "unhealthy"),  # docker calls sick what should long have been well
    )


def _order(container: Inspected) -> tuple[str, int]:
    return inspected.labels_of(container).get(labels.SERVICE, ""), number(container)


def number(container: Inspected) -> int:
    """Which of its service's containers it is, from 1."""
    text = inspected.labels_of(container).get(labels.NUMBER, "")
    return int(text) if text.isdecimal() and int(text) > 0 else 1
