"""The room of the node: what counts, and how a refusal reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.errors import ResourceExhausted
from services.orchestrator import ledger
from services.orchestrator.ledger import Room
from services.orchestrator.model import State, Step
from tests.unit.orchestrator.test_flow import RECORD, WISH

GIB = 1 << 30


def test_what_does_not_fit_is_refused_with_asked_and_free() -> None:
    """The refusal names each resource that is short."""
    left = ledger.free(Room(cpu_cores=2, memory_bytes=4 * GIB), [replace(WISH, cpu_cores=1.5, memory_bytes=3 * GIB)])
    ledger.check(Room(cpu_cores=0.5, memory_bytes=GIB), left)
    with pytest.raises(ResourceExhausted) as caught:
        ledger.check(Room(cpu_cores=0.6, memory_bytes=2 * GIB), left)
    assert caught.value.reason == "INSUFFICIENT_CPU_AND_MEMORY"
    assert [item.description for item in caught.value.quota] == [
        "asked 0.6 cores, free 0.5 cores",
        f"asked {2 * GIB} bytes, free {GIB} bytes",
    ]


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
    third = replace(WISH, cpu_cores=0.1)
    left = ledger.free(Room(cpu_cores=0.3, memory_bytes=0), [third, third])
    ledger.check(Room(cpu_cores=0.1, memory_bytes=0), left)
