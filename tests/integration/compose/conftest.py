"""Each test of this folder runs on docker and on podman, each of this run's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness.compose import MACHINES, ComposeMachine


@pytest.fixture(scope="session")
def machines() -> Iterator[Callable[[str], ComposeMachine]]:
    """Gives the one for an engine, made when the first test needs it."""
    with ExitStack() as stack:
        made: dict[str, ComposeMachine] = {}

        def get(name: str) -> ComposeMachine:
            if name not in made:
                made[name] = stack.enter_context(MACHINES[name]())
            return made[name]

        yield get


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in MACHINES])
def machine(request: pytest.FixtureRequest, machines: Callable[[str], ComposeMachine]) -> ComposeMachine:
    """The test's machine."""
    return machines(request.param)


@pytest.fixture
def node_id() -> str:
    """The id of a node that no other test has."""
    return secrets.token_hex(20)
