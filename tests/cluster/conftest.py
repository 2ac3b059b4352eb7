"""Tests of what `make cluster-up` has brought up; `make cluster-test` runs them, `make test` leaves them out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.node import Cluster

DIRECTORY = os.environ.get("BEEMESH_CLUSTER", "")
collect_ignore_glob = [] if DIRECTORY else ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; what a test has left in it is deleted before and after."""
    cluster = Cluster(Path(DIRECTORY))
    cluster.make_image()
    cluster.delete_all()
    yield cluster
    cluster.delete_all()
    cluster.remove_image()
