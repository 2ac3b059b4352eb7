"""What holds for every test."""

from __future__ import annotations

import signal

import pytest

_RERUNS = 2


def pytest_configure() -> None:
    """Let Ctrl-C reach the commands that tests start: what a shell starts in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test on real podman, or on real processes and their timing, may be tried again; the report names each rerun.

    A busy machine makes podman slow beyond any bound that would still mean something. What is wrong fails every time.
    """
    for item in items:
        real = item.get_closest_marker("podman") or {"e2e", "contract"} & set(item.path.parts)
        if real:
            item.add_marker(pytest.mark.flaky(reruns=_RERUNS, reruns_delay=1))
