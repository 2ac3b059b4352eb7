"""Which providers fit a request, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from services.provider.metadata import Amounts, Facts, engine_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """What is asked for; empty parts ask for nothing."""

    runtime_engines: frozenset[str] = frozenset()
    """Any of these; aliases resolved."""
    capabilities: frozenset[str] = frozenset()
    """All of these; aliases resolved."""
    minimum: Amounts = field(default_factory=Amounts)
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Each entry equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is judged of a provider or a node."""

    engines: Collection[str]
    """A provider's one engine; all of a node."""
    facts: Facts
    metadata: Mapping[str, str]
    issued_ms: int
    node_id: str


def selector(
    *,
    runtime_engines: Sequence[str] = (),
    capabilities: Sequence[str] = (),
    minimum: Amounts | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Selector:
    """A selector with aliases resolved."""
    return Selector(
        runtime_engines=frozenset(map(engine_id, runtime_engines)),
        capabilities=frozenset(map(engine_id, capabilities)),
        minimum=minimum or Amounts(),
        metadata=dict(metadata or {}),
    )


def fits(candidate: Candidate, wanted: Selector) -> bool:
    """Whether it has all that is asked; an amount that a provider does not tell does not fit one that is asked."""
    return (
        (not wanted.runtime_engines or not wanted.runtime_engines.isdisjoint(candidate.engines))
        and wanted.capabilities.issubset(candidate.facts.capabilities)
        and _covers(candidate.facts.resources, wanted.minimum)
        and all(candidate.metadata.get(key) == value for key, value in wanted.metadata.items())
    )


def best_first(items: Iterable[T], wanted: Selector, *, look: Callable[[T], Candidate]) -> list[T]:
    """Those that fit: the freest first, of equally free ones the freshest, then by node id so that order is stable.

    How free: the mean of its CPU and its memory, each as a share of the most that any fitting one has.
    """
    fitting = [(item, seen) for item in items if fits(seen := look(item), wanted)]
    top_cpu = max((c.facts.resources.cpu_cores or 0 for _, c in fitting), default=0) or 1
    top_memory = max((c.facts.resources.memory_bytes or 0 for _, c in fitting), default=0) or 1

    def rank(pair: tuple[T, Candidate]) -> tuple[float, int, str]:
        amounts = pair[1].facts.resources
        free = (amounts.cpu_cores or 0) / top_cpu + (amounts.memory_bytes or 0) / top_memory
        return -free, -pair[1].issued_ms, pair[1].node_id

    return [item for item, _ in sorted(fitting, key=rank)]


def _covers(has: Amounts, asked: Amounts) -> bool:
    return all(
        want is None or (have is not None and have >= want) for have, want in zip(has.each(), asked.each(), strict=True)
    )
