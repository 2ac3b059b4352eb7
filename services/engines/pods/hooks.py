"""Lifecycle hooks: backends have none, so the engine runs them, by the manifest that it keeps beside each container."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from services.engines.pods.acts import Dialer
from services.engines.probe_handlers import Handlers
from services.engines.probes import Finding, handler_of

ANNOTATION = "beemesh.io/lifecycle"
"""The hooks of a container and the ports that they may name; what the manifest says in plain, no resolved values."""


def annotation(container: Mapping[str, Any]) -> dict[str, str]:
    """What is kept beside a container, so that its hooks are known when its manifest is not at hand."""
    lifecycle = container.get("lifecycle")
    if not lifecycle:
        return {}
    kept = {"lifecycle": lifecycle, "ports": [port for port in container.get("ports") or () if port.get("name")]}
    return {ANNOTATION: json.dumps(kept)}


def kept(annotations: Mapping[str, str] | None) -> Mapping[str, Any]:
    """The container's `lifecycle` and `ports` as they were kept; empty when it has no hooks."""
    text = (annotations or {}).get(ANNOTATION)
    found: Mapping[str, Any] = json.loads(text) if text else {}
    return found


class Hooks:
    """Runs hooks in containers."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def run(self, container_id: str, container: Mapping[str, Any], hook: str, *, timeout: float) -> Finding:
        """Run `postStart` or `preStop`, if the container has it, for at most `timeout` seconds."""
        action = (container.get("lifecycle") or {}).get(hook)
        if not action:
            return Finding(ok=True)
        if sleep := action.get("sleep"):
            await asyncio.sleep(min(float(sleep["seconds"]), timeout))
            return Finding(ok=True)
        handler = handler_of(container, action, path=f"lifecycle.{hook}")
        try:
            return await Handlers(self._dialer).check(container_id, handler, timeout=timeout)
        finally:
            self._dialer.forget(container_id)
