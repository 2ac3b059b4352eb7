"""What the engine must know of a container to keep it alive, written on the container itself and read back. Pure.

It stands beside the container's labels, so that whoever supervises it later knows what was asked for without any file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.engines.probes import Probes, probes_of
from services.engines.restarts import Exit, Policy, policy_of
from services.errors import InvalidArgument
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
    """One supervised container as the backend was last seen to have it."""

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
    """How this run ended, if it has and the backend has cleaned up after it."""


def annotation(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    """The annotation for a main container of a pod with this PodSpec, which is valid; init containers get none."""
    kept: dict[str, Any] = {key: spec[key] for key in _OF_POD if key in spec}
    kept["container"] = {key: container[key] for key in _OF_CONTAINER if key in container}
    return {ANNOTATION: json.dumps(kept, separators=(",", ":"))}


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
