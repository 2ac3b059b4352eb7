"""The supervised containers among what podman lists and inspects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.engines.podman.observe import Listed, display_name, seconds
from services.engines.pods.supervision import ANNOTATION, Sighting, orders
from services.engines.restarts import Exit
from services.identity import LABEL_WORKLOAD_ID


def kept(inspection: Listed) -> dict[str, Any]:
    """What of an inspection, beside its State, must be at hand for `sightings`."""
    annotations = inspection.get("Config", {}).get("Annotations") or {}
    return {"Config": {"Annotations": {ANNOTATION: annotations[ANNOTATION]}}} if ANNOTATION in annotations else {}


def sightings(
    pods: Iterable[Listed], containers: Iterable[Listed], details: Mapping[str, Listed]
) -> Iterator[Sighting]:
    """The supervised containers among podman's lists; `details` are their inspections."""
    by_id = {pod["Id"]: pod for pod in pods}
    for container in containers:
        pod, detail = by_id.get(container.get("Pod", "")), details.get(container["Id"])
        if pod is not None and detail:
            found = sighting(pod, display_name(pod, container), container["Id"], detail)
            if found is not None:
                yield found


def sighting(pod: Listed, name: str, container_id: str, detail: Listed) -> Sighting | None:
    """One container, from its inspection; None when it is not supervised."""
    asked = orders(str((detail.get("Config", {}).get("Annotations") or {}).get(ANNOTATION, "")))
    if asked is None:
        return None
    state: Mapping[str, Any] = detail.get("State", {})
    started_at = seconds(state.get("StartedAt"))
    return Sighting(
        container_id=container_id,
        name=name,
        workload_id=(pod.get("Labels") or {}).get(LABEL_WORKLOAD_ID, ""),
        infra_id=str(pod.get("InfraId", "")),
        orders=asked,
        run=str(state.get("StartedAt")) if started_at is not None else "",
        started_at=started_at or 0.0,
        running=state.get("Status") == "running",
        exit=_exit(state, started_at) if state.get("Status") == "exited" and started_at is not None else None,
    )


def _exit(state: Mapping[str, Any], started_at: float) -> Exit:
    code = int(state.get("ExitCode") or 0)
    reason = "OOMKilled" if state.get("OOMKilled") else "Error" if code else "Completed"
    finished = seconds(state.get("FinishedAt"))
    return Exit(
        exit_code=code,
        reason=reason,
        start_time=started_at,
        finish_time=started_at if finished is None else max(finished, started_at),
    )
