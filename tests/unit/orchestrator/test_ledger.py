"""The room of the node: what counts, and how a refusal reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.errors import ResourceExhausted
from services.orchestrator import ledger
from services.orchestrator.ledger import Room
from services.orchestrator.model import Deployment, State, Step
from tests.unit.orchestrator.test_flow import RECORD, WISH

GIB = 1 << 30


def holding(name: str, *, cpu_cores: float = 0.0, memory_bytes: int = 0) -> Deployment:
    """A running deployment that holds this much."""
    return replace(
        RECORD,
        deployment_id=name,
        wish=replace(WISH, cpu_cores=cpu_cores, memory_bytes=memory_bytes),
        step=Step.REST,
        state=State.ACTIVE,
        touched=("podman",),
    )


def test_what_does_not_fit_is_refused_with_asked_and_free() -> None:
    """The refusal names each resource that is short."""
    ledger_ = ledger.Ledger(Room(cpu_cores=2, memory_bytes=4 * GIB))
    ledger_.note(holding("one", cpu_cores=1.5, memory_bytes=3 * GIB))
    with ledger_.promised("two", replace(WISH, cpu_cores=0.5, memory_bytes=GIB)):
        pass
    with (
        pytest.raises(ResourceExhausted) as caught,
        ledger_.promised("two", replace(WISH, cpu_cores=0.6, memory_bytes=2 * GIB)),
    ):
        pass
    assert caught.value.reason == "INSUFFICIENT_CPU_AND_MEMORY"
    assert [item.description for item in caught.value.quota] == [
        "asked 0.6 cores, free 0.5 cores",
        f"asked {2 * GIB} bytes, free {GIB} bytes",
    ]


def test_a_promise_is_kept_from_others_and_not_from_its_own() -> None:
    """While one is being accepted nobody else gets its room; an update asks only for the difference."""
    ledger_ = ledger.Ledger(Room(cpu_cores=2, memory_bytes=4 * GIB))
    big = replace(WISH, memory_bytes=3 * GIB)
    with ledger_.promised("one", big), pytest.raises(ResourceExhausted), ledger_.promised("two", big):
        pass
    ledger_.note(holding("one", memory_bytes=3 * GIB))
    with ledger_.promised("one", replace(WISH, memory_bytes=4 * GIB)):
        pass
    ledger_.note(replace(holding("one", memory_bytes=3 * GIB), step=Step.GONE, state=State.DELETED))
    with ledger_.promised("two", big):
        pass


def test_room_is_held_until_nothing_can_be_running() -> None:
    """In flight or with a copy somewhere it counts; gone, stopped or failed without a copy it does not."""
    assert ledger.counts(RECORD)
    assert ledger.counts(replace(RECORD, step=Step.REST, state=State.ACTIVE, touched=("podman",)))
    assert ledger.counts(replace(RECORD, step=Step.REST, state=State.FAILED, touched=("podman",)))
    assert not ledger.counts(replace(RECORD, step=Step.REST, state=State.FAILED))
    assert not ledger.counts(replace(RECORD, step=Step.REST, state=State.STOPPED, touched=("podman",)))
    assert not ledger.counts(replace(RECORD, step=Step.GONE, state=State.DELETED))


def test_thirds_that_add_up_to_all_fit() -> None:
    """Rounding does not refuse what fits exactly."""
    ledger_ = ledger.Ledger(Room(cpu_cores=0.3, memory_bytes=0))
    ledger_.note(holding("one", cpu_cores=0.1))
    ledger_.note(holding("two", cpu_cores=0.1))
    with ledger_.promised("three", replace(WISH, cpu_cores=0.1)):
        pass
