"""One docker for all tests of this folder; it fails where docker must be there, and skips where it is not."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.docker import DockerMachine, skip_without_docker


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerMachine]:
    """A docker of this run's own, with the test image."""
    with ExitStack() as stack:
        with skip_without_docker():
            made = stack.enter_context(DockerMachine())
        yield made


@pytest.fixture
def node_id() -> str:
    """The id of a node that no other test has."""
    return secrets.token_hex(20)
