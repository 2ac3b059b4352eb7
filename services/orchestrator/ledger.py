"""The room of the node: one ledger over all engines, for they share the machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.errors import QuotaViolation, ResourceExhausted
from services.orchestrator.model import Deployment, State, Step, Wish

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """An amount of the machine."""

    cpu_cores: float
    memory_bytes: int


def counts(deployment: Deployment) -> bool:
    """Whether a deployment holds room: from the moment it is accepted until nothing of it can be running."""
    if deployment.step is Step.GONE or deployment.state in (State.DELETED, State.STOPPED):
        return False
    return deployment.in_flight or bool(deployment.touched)


def free(capacity: Room, held: Iterable[Wish]) -> Room:
    """What is left of the capacity when these wishes hold their part."""
    wishes = list(held)
    return Room(
        cpu_cores=capacity.cpu_cores - sum(wish.cpu_cores for wish in wishes),
        memory_bytes=capacity.memory_bytes - sum(wish.memory_bytes for wish in wishes),
    )


def check(asked: Room, left: Room) -> None:
    """Raise ResourceExhausted, with asked and free, if it does not fit."""
    short: list[QuotaViolation] = []
    if asked.cpu_cores > left.cpu_cores + _EPSILON:
        short.append(_short("cpu", f"{asked.cpu_cores:g}", f"{max(left.cpu_cores, 0):g}", "cores"))
    if asked.memory_bytes > left.memory_bytes:
        short.append(_short("memory", str(asked.memory_bytes), str(max(left.memory_bytes, 0)), "bytes"))
    if short:
        raise ResourceExhausted(
            "no room on this node: " + "; ".join(f"{item.subject} {item.description}" for item in short),
            reason="INSUFFICIENT_" + "_AND_".join(item.subject.removeprefix("node:").upper() for item in short),
            quota=short,
        )


def _short(what: str, asked: str, left: str, unit: str) -> QuotaViolation:
    return QuotaViolation(subject=f"node:{what}", description=f"asked {asked} {unit}, free {left} {unit}")
