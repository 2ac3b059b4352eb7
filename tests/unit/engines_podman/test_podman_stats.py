"""From two looks at podman's counters to what a component uses, for each version's way of telling it."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.podman.stats import read
from services.engines.pods.images import pinned

OLD: dict[str, Any] = {
    "ContainerID": "c",
    "CPUNano": 3_000_000_000,
    "SystemNano": 1_700_000_001_000_000_000,
    "MemUsage": 4096,
    "NetInput": 10,
    "NetOutput": 20,
    "CPU": 90.0,
}
BEFORE = {**OLD, "CPUNano": 2_750_000_000, "SystemNano": 1_700_000_000_500_000_000}


def test_the_use_of_cpu_is_what_was_used_in_between() -> None:
    """A quarter of a second of CPU in half a second; not podman's average since the start."""
    sample = read(BEFORE, OLD, backend_version=(4, 3, 1))
    assert (sample.cpu_cores, sample.memory_bytes, sample.sample_time) == (0.5, 4096, 1_700_000_001.0)


@pytest.mark.parametrize("before", [{}, OLD, {**BEFORE, "CPUNano": 5_000_000_000}])
def test_without_two_looks_at_one_run_there_is_no_use_of_cpu(before: dict[str, Any]) -> None:
    """It was not there, no time passed, or it was started anew."""
    assert read(before, OLD, backend_version=(4, 3, 1)).cpu_cores is None


@pytest.mark.parametrize(("version", "rx", "tx"), [((4, 3, 1), 20, 10), ((4, 4, 0), 10, 20), ((4, 9), 10, 20)])
def test_received_and_sent_are_told_apart(version: tuple[int, ...], rx: int, tx: int) -> None:
    """Before 4.4 podman tells the one as the other."""
    sample = read(BEFORE, OLD, backend_version=version)
    assert (sample.network_rx_bytes, sample.network_tx_bytes) == (rx, tx)


def test_since_podman_5_networks_are_added_up() -> None:
    """And one that tells none has none."""
    bare = {key: value for key, value in OLD.items() if not key.startswith("Net")}
    networks = {"eth0": {"RxBytes": 1, "TxBytes": 2}, "eth1": {"RxBytes": 10, "TxBytes": 20}}
    sample = read(bare, {**bare, "Network": networks}, backend_version=(5, 2, 0))
    assert (sample.network_rx_bytes, sample.network_tx_bytes) == (11, 22)
    assert read(bare, bare, backend_version=(5, 2, 0)).network_rx_bytes is None


@pytest.mark.parametrize(
    "reference",
    ["localhost:5000/app:1", "localhost:5000/app", "localhost:5000/app@sha256:00", "localhost:5000/app:1@sha256:00"],
)
def test_a_pinned_image_has_its_digest_and_no_tag(reference: str) -> None:
    """Whatever it was written as; a registry's port is no tag."""
    assert pinned(reference, "sha256:ff") == "localhost:5000/app@sha256:ff"
