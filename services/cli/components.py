"""What beectl calls the components of a deployment: the manifest's name, and the replica where there are several.

`main`, or `0/main` to `2/main` for three replicas; what `describe` prints is what `-c` takes. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from beemesh.engine.v1.workload_pb2 import Component
from beemesh.orchestrator.v1.orchestrator_service_pb2 import Deployment

from services.cli.report import Failure

_ID_SHOWN = 12
_ID_MIN = 6
"""So much of an id is taken for one."""


def components(item: Deployment) -> list[Component]:
    """Everything that runs for it, over all its nodes."""
    return [part for instance in item.instances for part in instance.workload.components]


def labels(parts: Sequence[Component]) -> Mapping[str, str]:
    """What to call each, by component id."""
    several = Counter(part.display_name for part in parts)
    return {
        part.component_id: f"{part.replica}/{part.display_name}"
        if several[part.display_name] > 1
        else part.display_name
        for part in parts
    }


def short_id(part: Component) -> str:
    """As much of the backend's id as tells it apart."""
    return part.component_id[:_ID_SHOWN]


def resolve(parts: Sequence[Component], wanted: str) -> str:
    """The component_id of a request for `wanted`: REPLICA/NAME or the beginning of an id becomes the id, else as it is.

    Raises Failure when REPLICA/NAME is none, or two Deployments of one manifest have it.
    """
    if not wanted or any(part.display_name == wanted for part in parts):
        return wanted
    by_id = [part.component_id for part in parts if len(wanted) >= _ID_MIN and part.component_id.startswith(wanted)]
    if len(by_id) == 1:
        return by_id[0]
    found = [part for part in parts if f"{part.replica}/{part.display_name}" == wanted]
    if len(found) > 1:
        ids = ", ".join(short_id(part) for part in found)
        raise Failure(f"component {wanted} is there {len(found)} times; name it by its id: {ids}")
    if not found and "/" in wanted:
        raise Failure(f"there is no component {wanted}; there are {', '.join(sorted(set(labels(parts).values())))}")
    return found[0].component_id if found else wanted
