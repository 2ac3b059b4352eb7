"""What only podman knows of a running workload and belongs into its manifest: the very images, by digest.

podman's own `generate kube` is not used: it forgets probes, sources of variables and grace periods.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.engines.engine import Component
from services.engines.export import LiveFacts
from services.engines.podman.api import Podman
from services.engines.podman.http import Refusal
from services.engines.pods.images import pinned
from services.engines.pods.pulling import Images


async def live_facts(podman: Podman, images: Images, components: Sequence[Component]) -> LiveFacts:
    """The images of the components by display name, pinned where podman would find them so; raises Refusal."""
    found: dict[str, str] = {}
    for component in components:
        if component.display_name not in found and (name := await _pinned(podman, images, component)):
            found[component.display_name] = name
    return LiveFacts(images=found)


async def _pinned(podman: Podman, images: Images, component: Component) -> str:
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
    return name if await images.find(name) else ""
