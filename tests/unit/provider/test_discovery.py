from __future__ import annotations

import pytest

from services.provider import metadata
from services.provider.discovery import Candidate, Selector, best_first, fits, selector
from services.provider.metadata import Amounts
from tests.unit.provider.samples import METADATA, NOW_MS


def candidate(node: str = "a", issued_ms: int = NOW_MS, **entries: str) -> Candidate:
    changed = {**METADATA, **{key.replace("__", "."): value for key, value in entries.items()}}
    facts = metadata.facts(changed)
    return Candidate(engines=(facts.runtime_engine,), facts=facts, metadata=changed, issued_ms=issued_ms, node_id=node)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (selector(), True),
        (selector(runtime_engines=["podman"]), True),
        (selector(runtime_engines=["docker", "podman"]), True),
        (selector(runtime_engines=["docker"]), False),
        (selector(capabilities=["docker"]), True),
        (selector(capabilities=["podman", "docker"]), True),
        (selector(capabilities=["podman", "wasm"]), False),
        (selector(minimum=Amounts(cpu_cores=4)), True),
        (selector(minimum=Amounts(cpu_cores=4.5)), False),
        (selector(minimum=Amounts(memory_bytes=8_000_000_000)), True),
        (selector(minimum=Amounts(memory_bytes=8 << 30)), False),
        (selector(minimum=Amounts(storage_bytes=1)), False),
        (selector(metadata={"node_type": "beemesh-machine"}), True),
        (selector(metadata={"zone": "eu"}), False),
        (selector(runtime_engines=["podman"], capabilities=["wasm"]), False),
    ],
)
def test_a_provider_fits_when_it_has_all_that_is_asked(wanted: Selector, expected: bool) -> None:
    """Any of the engines, all capabilities, at least the amounts, equal metadata; empty asks for nothing."""
    assert fits(candidate(), wanted) is expected


@pytest.mark.parametrize("alias", ["libvirt", "qemu", "vm"])
def test_an_engine_is_found_by_its_aliases(alias: str) -> None:
    """`qemu` and `vm` ask for `libvirt`, as engine and as capability."""
    machine = candidate(runtime_engine="libvirt", capabilities="libvirt")
    assert fits(machine, selector(runtime_engines=[alias], capabilities=[alias]))
    assert not fits(candidate(), selector(runtime_engines=[alias]))


def test_an_amount_that_is_not_told_does_not_fit_one_that_is_asked() -> None:
    """A provider whose memory cannot be read is no answer to a request for memory, but to others."""
    vague = candidate(resource__memory="plenty")
    assert not fits(vague, selector(minimum=Amounts(memory_bytes=1)))
    assert fits(vague, selector(minimum=Amounts(cpu_cores=1)))


def test_the_freest_comes_first_then_the_freshest() -> None:
    """More room goes before less, newer before older, and ties by id, so that the order is stable."""
    small = candidate("small", resource__cpu="2", resource__memory="4GB")
    large = candidate("large", resource__cpu="8", resource__memory="16GB")
    old = candidate("old", issued_ms=NOW_MS - 1)
    twins = [candidate("twin-b"), candidate("twin-a")]
    ordered = best_first([small, old, *twins, large], selector(), look=lambda c: c)
    assert [c.node_id for c in ordered] == ["large", "twin-a", "twin-b", "old", "small"]


def test_what_does_not_fit_is_left_out() -> None:
    """Only those that fit are ordered."""
    small = candidate("small", resource__cpu="2")
    large = candidate("large", resource__cpu="8")
    ordered = best_first([small, large], selector(minimum=Amounts(cpu_cores=4)), look=lambda c: c)
    assert [c.node_id for c in ordered] == ["large"]


def test_cpu_and_memory_weigh_the_same() -> None:
    """A node with little of one and much of the other does not beat one with much of both."""
    lopsided = candidate("lopsided", resource__cpu="1", resource__memory="64GB")
    balanced = candidate("balanced", resource__cpu="16", resource__memory="60GB")
    ordered = best_first([lopsided, balanced], selector(), look=lambda c: c)
    assert [c.node_id for c in ordered] == ["balanced", "lopsided"]
