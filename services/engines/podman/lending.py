"""Fills volumes through podman: a container that is never started lends its mounts."""

from __future__ import annotations

from collections.abc import Sequence

from services.engines.podman.objects import Objects
from services.engines.pods.filling import Made, archive
from services.engines.pods.labels import LABEL_ROLE, ROLE_HELPER


async def lend(objects: Objects, far: Sequence[Made], image: str, name: str) -> None:
    """See `pods.filling.Lend`; raises Refusal."""
    targets = {f"/{index}": each.volume for index, each in enumerate(far)}
    body = {
        "name": name,
        "image": image,
        "entrypoint": ["none"],
        "labels": {**far[0].volume.labels, LABEL_ROLE: ROLE_HELPER},
        "image_volume_mode": "ignore",
        "volumes": [{"Name": volume.name, "Dest": target, "Options": ["nocopy"]} for target, volume in targets.items()],
    }
    helper, _ = await objects.create_container(body)
    try:
        for target, volume in targets.items():
            await objects.put_archive(helper, target, archive(volume))
    finally:
        await objects.remove_container(helper)
