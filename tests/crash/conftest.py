"""A warm interpreter for all tests here, and a node that they share as long as it is as a test expects it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.crash.node import CrashNode
from tests.crash.zygote import Zygote
from tests.harness.processes import short_directory


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """What makes processes in milliseconds."""
    with Zygote() as running:
        yield running


class _Shared:
    """One node for many tests; after one that failed, a new one."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._stack = ExitStack()
        self._node: CrashNode | None = None

    def node(self) -> CrashNode:
        """The node."""
        if self._node is None:
            place = self._stack.enter_context(short_directory())
            self._node = self._stack.enter_context(CrashNode(self._zygote, place))
        self._node.await_ready()
        return self._node

    def spoiled(self) -> None:
        """It is in nobody knows what state."""
        self._node = None
        self._stack.close()


@pytest.fixture(scope="session")
def _shared(zygote: Zygote) -> Iterator[_Shared]:
    shared = _Shared(zygote)
    yield shared
    shared.spoiled()


@pytest.fixture
def node(_shared: _Shared, request: pytest.FixtureRequest) -> Iterator[CrashNode]:
    """A node without deployments whose engines do as they are asked."""
    failed_before = request.session.testsfailed
    yield _shared.node()
    if request.session.testsfailed > failed_before:
        _shared.spoiled()
