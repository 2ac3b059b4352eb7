"""What holds for every test."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("beemesh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""What an example proves is not how fast the machine is."""
settings.load_profile("beemesh")

_RERUNS = 2
_REAL = {"clients", "contract", "crash", "e2e", "integration"}


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands that tests start: what a shell starts in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test on a real engine, or on real processes and their timing, may be tried again; the report names each rerun.

    A busy machine makes engines slow beyond any bound that would still mean something. What is wrong fails every time.
    """
    for item in items:
        if item.get_closest_marker("podman") or item.get_closest_marker("docker") or _REAL & set(item.path.parts):
            item.add_marker(pytest.mark.flaky(reruns=_RERUNS, reruns_delay=1))
