"""A container's securityContext, its pod's counted in, as podman's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.engines.pods import security


def settings(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the specification, but for the user; `pod` and `container` are PodSpec and Container."""
    own = container.get("securityContext") or {}
    made: dict[str, Any] = {
        "groups": security.groups(pod),
        "read_only_filesystem": bool(own.get("readOnlyRootFilesystem")),
        "no_new_privileges": own.get("allowPrivilegeEscalation") is False,
        "privileged": bool(own.get("privileged")),
        "cap_add": security.capabilities(container, "add"),
        "cap_drop": security.capabilities(container, "drop"),
        "selinux_opts": security.selinux(pod, container),
    }
    return {name: value for name, value in made.items() if value}
