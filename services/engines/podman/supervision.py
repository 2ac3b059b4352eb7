"""What the engine must know of a container to keep it alive, written on the container itself and read back. Pure.

It stands in an annotation, so that whoever supervises a container later, knows what was asked for without any file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.engines.podman.observe import Listed, display_name, seconds
from services.engines.probes import Probes, probes_of
from services.engines.restarts import Exit, Policy, policy_of
from services.errors import InvalidArgument
from services.identity import LABEL_WORKLOAD_ID
from services.telemetry import Log

ANNOTATION = "beemesh.io/supervision"
DEFAULT_GRACE_SECONDS = 30.0

_OF_POD = ("restartPolicy", "hostNetwork", "terminationGracePeriodSeconds")
_OF_CONTAINER = ("ports", "startupProbe", "livenessProbe", "readinessProbe")

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What was asked for one container."""

    policy: Policy
    host_network: bool
    grace_seconds: float
    """Between TERM and KILL."""
    probes: Probes
    attempts: int | None = None
    """How often it is restarted at most; None: without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One supervised container as podman was last seen to have it."""

    container_id: str
    name: str
    workload_id: str
    infra_id: str
    orders: Orders
    run: str
    """Names this run of it; empty: it never ran."""
    started_at: float
    """Seconds since 1970."""
    running: bool
    exit: Exit | None
    """How this run ended, if it has and podman has cleaned up after it."""


def annotation(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    """The annotation for a main container of a pod with this PodSpec, which is valid; init containers get none."""
    kept: dict[str, Any] = {key: spec[key] for key in _OF_POD if key in spec}
    kept["container"] = {key: container[key] for key in _OF_CONTAINER if key in container}
    return {ANNOTATION: json.dumps(kept, separators=(",", ":"))}


def kept(inspection: Listed) -> dict[str, Any]:
    """What of an inspection, beside its State, must be at hand for `sightings`."""
    annotations = inspection.get("Config", {}).get("Annotations") or {}
    return {"Config": {"Annotations": {ANNOTATION: annotations[ANNOTATION]}}} if ANNOTATION in annotations else {}


@lru_cache(maxsize=2048)
def orders(text: str) -> Orders | None:
    """Read an annotation; None where there is none, or none that can be read."""
    if not text:
        return None
    try:
        spec = json.loads(text)
        grace = spec.get("terminationGracePeriodSeconds")
        return Orders(
            policy=policy_of(spec),
            host_network=bool(spec.get("hostNetwork")),
            grace_seconds=DEFAULT_GRACE_SECONDS if grace is None else float(grace),
            probes=probes_of(spec["container"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, InvalidArgument) as error:
        log.error("supervision_unreadable", text=text[:500], why=error)
        return None


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
