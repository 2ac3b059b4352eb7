"""A container's securityContext, its pod's counted in, as docker's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engines.pods import security


def settings(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into its HostConfig; `pod` and `container` are PodSpec and Container."""
    own = container.get("securityContext") or {}
    options = [f"label={part}" for part in security.selinux(pod, container)]
    if own.get("allowPrivilegeEscalation") is False:
        options.append("no-new-privileges")
    made: dict[str, Any] = {
        "GroupAdd": security.groups(pod),
        "ReadonlyRootfs": bool(own.get("readOnlyRootFilesystem")),
        "Privileged": bool(own.get("privileged")),
        "CapAdd": security.capabilities(container, "add"),
        "CapDrop": security.capabilities(container, "drop"),
        "SecurityOpt": options,
    }
    return {name: value for name, value in made.items() if value}
