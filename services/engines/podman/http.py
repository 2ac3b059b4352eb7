"""podman's REST API over its Unix socket."""

from __future__ import annotations

from pathlib import Path

from services.engines import unix_http
from services.engines.unix_http import Duplex, Refusal, Reply

__all__ = ["Duplex", "Refusal", "Reply", "UnixHttp"]


class UnixHttp(unix_http.UnixHttp):
    """A client of podman's service; see `unix_http.UnixHttp`."""

    def __init__(self, path: Path, *, concurrency: int = 16, max_streams: int = 256) -> None:
        super().__init__(path, backend="podman", concurrency=concurrency, max_streams=max_streams)
