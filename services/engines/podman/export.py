"""What only podman knows of a running workload and belongs into its manifest: the very images, by digest.

podman's own `generate kube` is not used: it forgets probes, sources of variables and grace periods.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.engines.engine import Component
from services.engines.export import LiveFacts
from services.engines.podman.api import Podman
from services.engines.podman.containers import Containers
from services.engines.podman.http import Refusal


async def live_facts(podman: Podman, containers: Containers, components: Sequence[Component]) -> LiveFacts:
    """The images of the components by display name, pinned where podman would find them so; raises Refusal."""
    images: dict[str, str] = {}
    for component in components:
        if component.display_name not in images and (pinned := await _pinned(podman, containers, component)):
            images[component.display_name] = pinned
    return LiveFacts(images=images)


async def _pinned(podman: Podman, containers: Containers, component: Component) -> str:
    """`name@sha256:…`; empty where the image is not known under its digest, as one that was built here may not be."""
    try:
        found = await podman.inspect(component.component_id)
    except Refusal as refusal:
        if refusal.status == 404:  # it has just been removed
            return ""
        raise
    digest = str(found.get("ImageDigest") or "")
    if not digest or not component.image:
        return ""
    name = pinned(component.image, digest)
    return name if await containers.has_image(name) else ""


def pinned(reference: str, digest: str) -> str:
    """The reference with this digest instead of its tag, or of the digest that it has."""
    name = reference.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"
