"""Nodes for tests: real processes, directories of their own, free ports."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from scripts import podman_state
from scripts.local_node import LocalNode
from scripts.make_test_image import REFERENCE, import_image
from tests.harness.mixed import Backends, MixedNode, mixed_node


@pytest.fixture
def start_node() -> Iterator[Callable[..., LocalNode]]:
    """Start any number of nodes; each is stopped after the test, and what it left in podman and on disk is removed."""
    with ExitStack() as stack:
        yield lambda engines="mock": stack.enter_context(_running(engines))


@contextmanager
def _running(engines: str) -> Iterator[LocalNode]:
    """A node that is stopped before what it left is removed: while it runs it would make that anew."""
    node = LocalNode(engines=engines)
    try:
        node.start()
        yield node
        if node.services():
            node.stop()
    finally:
        node.kill()
        if "podman" in engines and (node_id := node.node_id()):
            podman_state.purge(node_id)
        node.remove()


@pytest.fixture
def podman_image() -> str:
    """Podman and the image that examples/ use; fails where podman must be there, and skips where it is not."""
    try:
        subprocess.run(["podman", "info"], capture_output=True, timeout=30, check=True)
        if subprocess.run(["podman", "image", "exists", REFERENCE], timeout=30, check=False).returncode != 0:
            import_image()
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        if "podman" in os.environ.get("BEEMESH_REQUIRE_ENGINES", "").split(","):
            pytest.fail(f"podman must be here and cannot be used: {error}")
        pytest.skip(f"podman cannot be used here: {error}")
    return REFERENCE


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    """A docker and a podman of this run's own."""
    with Backends() as made:
        yield made


@pytest.fixture(scope="module")
def shared_mixed_node(backends: Backends) -> Iterator[MixedNode]:
    """A node on both that a file's tests share."""
    with mixed_node(backends) as node:
        yield node


@pytest.fixture
def mixed(shared_mixed_node: MixedNode) -> Iterator[MixedNode]:
    """That node, both backends there; afterwards nothing may be left in them."""
    node = shared_mixed_node
    node.backends.up()
    node.until_available(podman=True, docker=True, mock=True)
    yield node
    node.clear()
