"""One podman for all tests of this folder; it fails where podman must be there, and skips where it is not."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.podman import PodmanMachine, skip_without_podman


@pytest.fixture(scope="session")
def machine() -> Iterator[PodmanMachine]:
    """A podman store of this run's own, with the test image."""
    with ExitStack() as stack:
        with skip_without_podman():
            made = stack.enter_context(PodmanMachine())
        yield made


@pytest.fixture
def node_id() -> str:
    """The id of a node that no other test has."""
    return secrets.token_hex(20)
