"""Amounts are read as Kubernetes, Compose and the annotations write them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.manifests import quantities

Amount = str | int | float


@pytest.mark.parametrize(
    ("value", "cores"),
    [("500m", 0.5), ("2.0", 2.0), (2, 2.0), (0.5, 0.5), ("0", 0.0), ("1e3", 1000.0), ("1k", 1000.0), (".5", 0.5)],
)
def test_cpu_is_read_in_cores(value: Amount, cores: float) -> None:
    """Cores may be a number, a decimal or thousandths."""
    assert quantities.cpu(value) == cores


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4gb", 4_000_000_000),
        ("4 GB", 4_000_000_000),
        ("4Gi", 4 * 2**30),
        ("64Mi", 64 * 2**20),
        ("64M", 64_000_000),
        ("64MB", 64_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("1.5Gi", 3 * 2**29),
        ("1500m", 2),
        ("512b", 512),
        (1024, 1024),
        (1e3, 1000),
        ("128974848", 128974848),
        ("0", 0),
    ],
)
def test_memory_is_read_in_bytes(value: Amount, size: int) -> None:
    """Ki to Ei are powers of 1024, k to E and kB to EB powers of 1000, fractions of a byte are rounded up."""
    assert quantities.memory(value) == size


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64m", 64 * 2**20),
        ("64M", 64 * 2**20),
        ("64mb", 64 * 2**20),
        ("64MiB", 64 * 2**20),
        ("1.5g", 3 * 2**29),
        ("2gb", 2**31),
        ("10k", 10240),
        ("300b", 300),
        ("300", 300),
        (300, 300),
    ],
)
def test_compose_memory_is_binary(value: Amount, size: int) -> None:
    """Compose counts every suffix in powers of 1024."""
    assert quantities.compose_memory(value) == size


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30s", 30.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("250ms", 0.25), ("1h0m", 3600.0), (30, 30.0), (0.5, 0.5)],
)
def test_durations_are_read_in_seconds(value: Amount, seconds: float) -> None:
    """Units add up; a bare number is seconds."""
    assert quantities.duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize("read", [quantities.cpu, quantities.memory, quantities.compose_memory, quantities.duration])
@pytest.mark.parametrize(
    "value",
    ["", " ", "lots", "-1", -1, "1 Gi Gi", "1GiB2", "0x10", "1_000", "١", "inf", "nan", "1" * 65, True, float("inf"),
     float("nan"), "1e9999", "e3", "1,5", "4G i", "\n1"],
)  # fmt: skip
def test_what_is_no_amount_is_refused_in_a_sentence(read: Callable[[Amount], float], value: Amount) -> None:
    """Each reader says what it was given and what it expects."""
    with pytest.raises(ValueError, match=r"is not a|is negative|is more") as caught:
        read(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["1e300", "9Ei", "99999999999999999999"])
def test_more_than_can_be_is_refused(value: str) -> None:
    """An amount that no machine has is an error rather than a number."""
    with pytest.raises(ValueError, match="more"):
        quantities.memory(value)
    with pytest.raises(ValueError, match="more"):
        quantities.cpu(value)


@pytest.mark.parametrize("value", ["30", "s", "1d", "1m 30s", "-30s"])
def test_a_duration_as_text_needs_its_unit(value: str) -> None:
    """Text without a known unit is no duration."""
    with pytest.raises(ValueError, match="is not a duration"):
        quantities.duration(value)


@given(st.integers(0, 2**63 - 1))
def test_bytes_are_exact(size: int) -> None:
    """Any number of bytes is read as it is, as a number, as text and in thousandths."""
    assert quantities.memory(size) == quantities.memory(str(size)) == quantities.memory(f"{size}000m") == size
    assert quantities.compose_memory(f"{size}b") == size


@given(st.integers(0, 2**30), st.sampled_from(range(6)))
def test_suffixes_are_powers(number: int, power: int) -> None:
    """A suffix multiplies by its power of 1000 or 1024."""
    for prefix, base in (("KMGTPE"[power] + "i", 1024), ("kMGTPE"[power], 1000), ("KMGTPE"[power] + "B", 1000)):
        if number * base ** (power + 1) < 2**63:
            assert quantities.memory(f"{number}{prefix}") == number * base ** (power + 1)


@given(st.text(max_size=80) | st.integers() | st.floats() | st.booleans())
def test_readers_only_raise_value_error(value: Amount) -> None:
    """Whatever is read, it ends in an amount that is not negative or in a ValueError."""
    for read in (quantities.cpu, quantities.memory, quantities.compose_memory, quantities.duration):
        with suppress(ValueError):
            assert read(value) >= 0
