from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.provider import metadata
from services.provider.metadata import Amounts
from tests.unit.provider.samples import METADATA


def test_the_six_keys_are_read_as_typed_facts() -> None:
    """The seed's six keys become an engine, a workload, capabilities and amounts; 8GB is 8 × 10^9."""
    metadata.check(METADATA)
    found = metadata.facts(METADATA)
    assert (found.runtime_engine, found.workload_id) == ("podman", "beemesh-web-0123abcd")
    assert found.capabilities == ("podman", "docker")
    assert found.resources == Amounts(cpu_cores=4.0, memory_bytes=8_000_000_000)


@pytest.mark.parametrize("key", sorted(METADATA))
def test_each_of_the_six_keys_is_needed(key: str) -> None:
    """Without one of the six keys an announcement is refused, and the violation names that key."""
    given_ = {k: v for k, v in METADATA.items() if k != key}
    assert violations(given_) == [f"metadata[{key}]"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resource.cpu", "four"),
        ("resource.cpu", "-1"),
        ("resource.memory", "8 bananas"),
        ("resource.memory", ""),
        ("node_type", "machine"),
        ("runtime_engine", "qemu"),
        ("runtime_engine", ""),
        ("runtime_engine", "Podman"),
        ("capabilities", "podman,,docker"),
        ("capabilities", "podman, docker"),
        ("capabilities", "vm"),
        ("workload_id", ""),
        ("workload_id", "x" * 64),
    ],
)
def test_a_wrong_value_is_named_by_its_key(key: str, value: str) -> None:
    """A value that is none is refused with the path of its key."""
    assert violations({**METADATA, key: value}) == [f"metadata[{key}]"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Several wrong entries are several violations."""
    assert violations({**METADATA, "resource.cpu": "?", "resource.memory": "?"}) == [
        "metadata[resource.cpu]",
        "metadata[resource.memory]",
    ]


def test_more_keys_are_welcome_if_they_are_keys() -> None:
    """Unknown keys pass; one with a space or none at all does not."""
    metadata.check({**METADATA, "zone": "eu-1", "beemesh.io/tier": "gold"})
    assert violations({**METADATA, "a b": ""}) == ["metadata[a b]"]
    assert violations({**METADATA, "": "x"}) == ["metadata[]"]


def test_a_node_may_have_no_usable_engine() -> None:
    """Capabilities follow health, so they can be empty."""
    metadata.check({**METADATA, "capabilities": ""})
    assert metadata.facts({**METADATA, "capabilities": ""}).capabilities == ()


@given(st.dictionaries(st.sampled_from(sorted(METADATA)) | st.text(max_size=9), st.text(max_size=80)))
def test_what_others_signed_never_raises(entries: dict[str, str]) -> None:
    """Whatever another node signed can be read; what is not understood is absent."""
    found = metadata.facts(entries)
    assert found.resources.cpu_cores is None or found.resources.cpu_cores >= 0


def violations(entries: dict[str, str]) -> list[str]:
    with pytest.raises(InvalidArgument) as raised:
        metadata.check(entries)
    assert raised.value.reason == "BAD_METADATA"
    return [violation.field_path for violation in raised.value.violations]
