"""The commands that only look."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb2
from beemesh.provider.v1 import provider_service_pb2 as provider_pb2
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2

from services.cli import description, history, render
from services.cli.session import Session
from services.rpc.convert import duration

PAGES_MAX = 100
"""Pages of a list that are read before it is said to go on."""


async def get(session: Session, name: str, output: str) -> None:
    """Print one deployment, or all."""
    if name:
        request = orchestrator_pb2.GetDeploymentRequest(name=name)
        item = (await session.call(session.orchestrator.GetDeployment, request)).deployment
        items, data = [item], render.as_data(item)
    else:
        items = await _all(session)
        data = {"deployments": [render.as_data(item) for item in items]}
    if output == "table":
        _say(render.deployments(items, time.time()) if items else "no deployments")
    elif output == "name":
        sys.stdout.writelines(f"deployments/{item.deployment_id}\n" for item in items)
    else:
        _say(render.formatted(data, output))


async def _all(session: Session) -> list[orchestrator_pb2.Deployment]:
    found: list[orchestrator_pb2.Deployment] = []
    request = orchestrator_pb2.ListDeploymentsRequest()
    for _ in range(PAGES_MAX):
        answer = await session.call(session.orchestrator.ListDeployments, request)
        found += answer.deployments
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found
    sys.stderr.write(f"only the first {len(found)} are shown\n")
    return found


async def describe(session: Session, name: str) -> None:
    """Print all there is to say about a deployment."""
    answer = await session.call(session.orchestrator.GetDeployment, orchestrator_pb2.GetDeploymentRequest(name=name))
    _say(description.describe(answer.deployment, await history.kept(session, name), time.time()))


async def engines(session: Session, *, probe: bool, output: str) -> None:
    """Print every engine of the node and whether it can be used."""
    request = registry_pb2.CheckAvailableEnginesRequest(probe=probe, probe_timeout=duration(10) if probe else None)
    answer = await session.call(session.registry.CheckAvailableEngines, request)
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
    else:
        _say(render.engines(answer.engines, answer.default_engine) if answer.engines else "no engines")


async def providers(
    session: Session, manifest: str, *, engines: Sequence[str], capabilities: Sequence[str], output: str
) -> None:
    """Print who provides a manifest, best first."""
    selector = provider_pb2.ProviderSelector(runtime_engines=engines, capabilities=capabilities)
    request = provider_pb2.DiscoverProvidersRequest(manifest_id=manifest, selector=selector)
    answer = await session.call(session.provider.DiscoverProviders, request)
    if not answer.complete and answer.unreachable_peers:
        sys.stderr.write(f"not all peers answered: {', '.join(answer.unreachable_peers)}\n")
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
    else:
        _say(render.providers(answer.providers, time.time()) if answer.providers else "no providers")


async def version(session: Session, target: str) -> None:
    """Print beectl's version, and the node it reaches; raises when it reaches none."""
    from importlib.metadata import version as installed_version

    _say(f"beectl {installed_version('beemesh')}")
    answer = await session.call(session.provider.GetNodeIdentity, provider_pb2.GetNodeIdentityRequest())
    _say(f"node   {answer.node_id} at {target}")


def _say(text: Any) -> None:
    sys.stdout.write(f"{text}\n")
