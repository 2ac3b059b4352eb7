"""A container's securityContext, its pod's counted in, as podman's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SELINUX = ("user", "role", "type", "level")


def settings(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the container's specification; `pod` and `container` are PodSpec and Container."""
    context = pod.get("securityContext") or {}
    own = container.get("securityContext") or {}
    made: dict[str, Any] = {
        "user": _user(context, own),
        "groups": groups(pod),
        "read_only_filesystem": bool(own.get("readOnlyRootFilesystem")),
        "no_new_privileges": own.get("allowPrivilegeEscalation") is False,
        "privileged": bool(own.get("privileged")),
    }
    capabilities = own.get("capabilities") or {}
    for field, key in (("cap_add", "add"), ("cap_drop", "drop")):
        made[field] = [str(name).removeprefix("CAP_") for name in capabilities.get(key) or ()]
    labels = own.get("seLinuxOptions") or context.get("seLinuxOptions") or {}
    made["selinux_opts"] = [f"{name}:{labels[name]}" for name in _SELINUX if labels.get(name)]
    return {name: value for name, value in made.items() if value}


def groups(pod: Mapping[str, Any]) -> list[str]:
    """The groups that every process of the pod has besides its own."""
    context = pod.get("securityContext") or {}
    wanted = [*(context.get("supplementalGroups") or ())]
    if context.get("fsGroup") is not None:
        wanted.append(context["fsGroup"])
    return [str(group) for group in dict.fromkeys(wanted)]


def fs_group(pod: Mapping[str, Any]) -> int | None:
    """The group of the pod's volumes."""
    group: int | None = (pod.get("securityContext") or {}).get("fsGroup")
    return group


def must_not_be_root(pod: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
    """Whether the image's user has to be looked at: it must not be root, and the manifest names none."""
    context, own = pod.get("securityContext") or {}, container.get("securityContext") or {}
    wanted = bool(own.get("runAsNonRoot", context.get("runAsNonRoot")))
    return wanted and own.get("runAsUser", context.get("runAsUser")) is None


def is_root(user: str) -> bool:
    """Whether an image's user is root, or cannot be told not to be: a name may be anybody."""
    name = user.partition(":")[0]
    return not name.isdigit() or int(name) == 0


def _user(context: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    user = own.get("runAsUser", context.get("runAsUser"))
    group = own.get("runAsGroup", context.get("runAsGroup"))
    if user is None and group is None:
        return ""
    if group is None:
        return str(user)
    return f"{'' if user is None else user}:{group}"
