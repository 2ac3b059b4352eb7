"""How an engine makes itself known: registers with the registry, renews its lease forever, takes leave at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from beemesh.registry.v1 import registry_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2_grpc as pb_grpc

from services.errors import BeemeshError
from services.rpc.client import connect
from services.rpc.convert import duration
from services.rpc.deadline import budget
from services.rpc.errors import translated
from services.telemetry import Log

LEASE_SECONDS = 15.0

_CALL_SECONDS = 3.0
_LEAVE_SECONDS = 1.0
_RENEW_MIN, _RENEW_MAX = 0.5, LEASE_SECONDS / 3
_BACKOFF_FIRST, _BACKOFF_MAX = 0.1, 3.0

log = Log(__name__)


class Registration:
    """One engine's entry in the registry at `target`."""

    def __init__(
        self,
        *,
        target: str,
        engine_id: str,
        endpoint: str,
        instance_id: str,
        aliases: Sequence[str] = (),
        priority: int = 0,
    ) -> None:
        self._target = target
        self._request = pb.RegisterEngineRequest(
            engine_id=engine_id,
            endpoint=endpoint,
            instance_id=instance_id,
            lease_duration=duration(LEASE_SECONDS),
            aliases=aliases,
            priority=priority,
        )

    async def run(self) -> None:
        """Register and renew until cancelled; a registry that does not answer is asked again and again."""
        wait, registered = _BACKOFF_FIRST, False
        async with connect(self._target, files=[pb.DESCRIPTOR]) as channel:
            stub = pb_grpc.RegistryServiceStub(channel)
            while True:
                try:
                    with translated():
                        answer = await stub.RegisterEngine(self._request, timeout=budget(_CALL_SECONDS))
                except BeemeshError as error:
                    log.info("registry_not_answering", target=self._target, why=error)
                    registered = False
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, _BACKOFF_MAX)
                    continue
                if not registered:
                    log.info("registered", target=self._target, endpoint=self._request.endpoint)
                wait, registered = _BACKOFF_FIRST, True
                await asyncio.sleep(_clamp(answer.renew_interval.ToNanoseconds() / 1e9))

    async def leave(self) -> None:
        """Unregister this instance; a registry that does not answer soon lets the lease run out."""
        request = pb.UnregisterEngineRequest(
            engine_id=self._request.engine_id, instance_id=self._request.instance_id, allow_missing=True
        )
        try:
            async with connect(self._target) as channel:
                with translated():
                    await pb_grpc.RegistryServiceStub(channel).UnregisterEngine(request, timeout=budget(_LEAVE_SECONDS))
        except BeemeshError as error:
            log.info("unregister_failed", target=self._target, why=error)


def _clamp(renew_interval: float) -> float:
    """What the registry answered, kept within what the lease can bear; 0 means that it did not say."""
    return min(max(renew_interval, _RENEW_MIN), _RENEW_MAX) if renew_interval else _RENEW_MAX
