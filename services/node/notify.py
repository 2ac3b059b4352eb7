"""Tells a service manager (systemd, Type=notify) how the node is doing; silent where there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, *, env: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1`, `STOPPING=1`, …; returns whether anyone asked to be told. Never raises: it is a courtesy."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return False
    return True
