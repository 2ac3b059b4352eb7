"""The room of the node: one ledger over all engines, for they share the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.errors import QuotaViolation, ResourceExhausted
from services.orchestrator.model import Deployment, State, Step, Wish

_EPSILON = 1e-9
_MILLION = 1_000_000


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


class Ledger:
    """What is held of the machine, kept as a sum: a check costs the same with ten deployments and ten thousand."""

    def __init__(self, capacity: Room) -> None:
        self._capacity = capacity
        self._held: dict[str, tuple[int, int]] = {}
        """Deployment → (millionths of a core, bytes): whole numbers, so that a long life sums up to what is there."""
        self._cpu = 0
        self._memory = 0

    def note(self, deployment: Deployment) -> None:
        """A record has changed: it holds its part from now on, or no longer."""
        old = self._held.pop(deployment.deployment_id, (0, 0))
        new = _units(deployment.wish) if counts(deployment) else (0, 0)
        if any(new):
            self._held[deployment.deployment_id] = new
        self._add(new[0] - old[0], new[1] - old[1])

    @contextmanager
    def promised(self, deployment_id: str, wish: Wish) -> Iterator[None]:
        """Within it, room for the wish is kept from others; raises ResourceExhausted when there is not enough."""
        own = self._held.get(deployment_id, (0, 0))
        check(Room(cpu_cores=wish.cpu_cores, memory_bytes=wish.memory_bytes), self._free(own))
        cpu, memory = _units(wish)
        promise = max(cpu - own[0], 0), max(memory - own[1], 0)
        self._add(*promise)
        try:
            yield
        finally:
            self._add(-promise[0], -promise[1])

    def _free(self, own: tuple[int, int]) -> Room:
        cpu = self._capacity.cpu_cores - (self._cpu - own[0]) / _MILLION
        return Room(cpu_cores=cpu, memory_bytes=self._capacity.memory_bytes - (self._memory - own[1]))

    def _add(self, cpu: int, memory: int) -> None:
        self._cpu += cpu
        self._memory += memory


def _units(wish: Wish) -> tuple[int, int]:
    return round(wish.cpu_cores * _MILLION), wish.memory_bytes


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
