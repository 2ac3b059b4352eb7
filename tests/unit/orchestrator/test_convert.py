"""What is said of a node in the words of other machines."""

from __future__ import annotations

import pytest

from services.orchestrator.convert import resource_text


@pytest.mark.parametrize(
    ("memory", "text"),
    [(8 * 10**9, "8GB"), (8_590_000_000, "8.6GB"), (512 * 10**6, "0.5GB"), (2 * 10**15, "2000000GB")],
)
def test_memory_is_told_as_a_quantity_however_much_there_is(memory: int, text: str) -> None:
    """Memory is told in GB with one digit at most, and never in an exponent, which is no quantity."""
    assert resource_text(cpu_cores=4, memory_bytes=memory) == {"resource.cpu": "4", "resource.memory": text}
