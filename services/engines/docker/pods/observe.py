"""From inspections of pods' containers to what the engine reports and supervises. Pure.

A container without its infra container, which somebody has removed, is no part of a pod any more: it is not reported,
so that the workload shows as what it is, not whole, and is made whole by the next apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from services.engines.docker.pods.labels import is_infra
from services.engines.docker_api import inspected
from services.engines.docker_api.inspected import Inspected, labels_of
from services.engines.engine import Component, Observation, Role, WorkloadState
from services.engines.pods.labels import LABEL_CONTAINER, LABEL_POD, LABEL_REPLICA, LABEL_ROLE, ROLE_INIT, ROLE_MAIN
from services.engines.pods.supervision import ANNOTATION, Sighting, orders
from services.engines.restarts import Exit
from services.identity import LABEL_WORKLOAD_ID, owned_by

_OF_CONTAINER = "container:"


def assemble(node_id: str, containers: Iterable[Inspected], networks: Iterable[Inspected]) -> dict[str, Observation]:
    """All workloads of the node by id, those of which only a network is left included."""
    mine: dict[str, list[Inspected]] = {}
    for container in containers:
        if owned_by(marks := labels_of(container), node_id):
            mine.setdefault(marks[LABEL_WORKLOAD_ID], []).append(container)
    found = {workload_id: _observation(sorted(group, key=_order)) for workload_id, group in mine.items()}
    for network in networks:
        if owned_by(marks := network.get("Labels") or {}, node_id):
            found.setdefault(marks[LABEL_WORKLOAD_ID], Observation(ownership=inspected.ownership(marks), components=()))
    return found


def sightings(containers: Iterable[Inspected]) -> Iterator[Sighting]:
    """The supervised containers."""
    everything = list(containers)
    pods = {str(each["Id"]) for each in everything if is_infra(each)}
    for container in everything:
        if infra_of(container) in pods:
            found = _sighting(container)
            if found is not None:
                yield found


def cut_off(containers: Iterable[Inspected]) -> Iterator[str]:
    """The containers that run without their pod's network: its infra container has ended, or was started after them."""
    everything = list(containers)
    infras = {str(each["Id"]): each for each in everything if is_infra(each)}
    for container in everything:
        infra, state = infras.get(infra_of(container)), container.get("State") or {}
        if infra is None or state.get("Status") != "running":
            continue
        if (infra.get("State") or {}).get("Status") != "running" or _is_younger(infra, container):
            yield str(container["Id"])


def infra_of(container: Inspected) -> str:
    """The id of the infra container of its pod; empty when it has none."""
    mode = str((container.get("HostConfig") or {}).get("NetworkMode", ""))
    return mode.removeprefix(_OF_CONTAINER) if mode.startswith(_OF_CONTAINER) else ""


def _is_younger(infra: Inspected, container: Inspected) -> bool:
    """Whether it was started anew after the container; its first start comes before, whatever the clock says."""
    begun, own = (inspected.seconds((each.get("State") or {}).get("StartedAt")) for each in (infra, container))
    has_ended = inspected.seconds((infra.get("State") or {}).get("FinishedAt")) is not None
    return has_ended and begun is not None and own is not None and begun > own


def _observation(containers: Sequence[Inspected]) -> Observation:
    infras = {str(each["Id"]): each for each in containers if is_infra(each)}
    made = (inspected.seconds(container.get("Created")) for container in containers)
    newest = max(containers, key=lambda container: str(container.get("Created", "")))
    return Observation(
        ownership=inspected.ownership(labels_of(newest)),
        components=tuple(_component(each) for each in containers if infra_of(each) in infras),
        ports=inspected.ports_of(infras.values()),
        create_time=min((time for time in made if time is not None), default=None),
        details={"pods": [labels_of(each).get(LABEL_POD, "") for each in infras.values()]},
    )


def _component(container: Inspected) -> Component:
    state, marks = container.get("State") or {}, labels_of(container)
    status, ended = inspected.state_of(state)
    reason, message = inspected.reason_of(state, status, ended, "none")
    return Component(
        component_id=str(container["Id"]),
        display_name=marks.get(LABEL_CONTAINER, ""),
        image=str((container.get("Config") or {}).get("Image", "")),
        state=status,
        reason=reason,
        message=message,
        start_time=inspected.seconds(state.get("StartedAt")),
        exit_status=ended,
        replica=_replica(container),
        role=Role.INIT if marks.get(LABEL_ROLE) == ROLE_INIT else Role.MAIN,
    )


def _sighting(container: Inspected) -> Sighting | None:
    marks, state = labels_of(container), container.get("State") or {}
    asked = orders(marks.get(ANNOTATION, ""))
    if asked is None or marks.get(LABEL_ROLE) != ROLE_MAIN:
        return None
    started_at = inspected.seconds(state.get("StartedAt"))
    status, ended = inspected.state_of(state)
    exit_ = None
    if ended is not None and started_at is not None:
        finished = ended.finish_time
        exit_ = Exit(
            exit_code=ended.exit_code,
            reason=ended.reason,
            start_time=started_at,
            finish_time=started_at if finished is None else max(finished, started_at),
        )
    return Sighting(
        container_id=str(container["Id"]),
        name=marks.get(LABEL_CONTAINER, ""),
        workload_id=marks.get(LABEL_WORKLOAD_ID, ""),
        infra_id=infra_of(container),
        orders=asked,
        run=str(state.get("StartedAt")) if started_at is not None else "",
        started_at=started_at or 0.0,
        running=status is WorkloadState.RUNNING,
        exit=exit_,
    )


def _order(container: Inspected) -> tuple[str, int, bool, str]:
    """By document, number and role, then in the order in which they were made."""
    marks = labels_of(container)
    is_main = marks.get(LABEL_ROLE) == ROLE_MAIN
    document = marks.get(LABEL_POD, "").rpartition("-")[0]
    return document, _replica(container), is_main, str(container.get("Created", ""))


def _replica(container: Mapping[str, Any]) -> int:
    number = labels_of(container).get(LABEL_REPLICA, "")
    return int(number) if number.isdecimal() else 0
