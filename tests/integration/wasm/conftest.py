"""An engine of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conformance.wasm_harness import build
from tests.harness.processes import short_directory
from tests.integration.wasm.functions import Functions, functions


@pytest.fixture(scope="session", autouse=True)
def runtime() -> None:
    """The Python runtime is built before the first test, so that no call has to wait for it."""
    build()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where it keeps its data."""
    with short_directory() as path:
        yield path


@pytest.fixture
async def engine(directory: Path) -> AsyncIterator[Functions]:
    """Running."""
    async with functions(directory) as running:
        yield running
