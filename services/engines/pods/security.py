"""A container's securityContext, its pod's counted in: what every backend is told in the same words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SELINUX = ("user", "role", "type", "level")


def user(pod: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    """`user`, `user:group`, or `:group` where the user is the image's; empty where nothing is said.

    `pod` and `container` are PodSpec and Container, as in all below.
    """
    context, own = _contexts(pod, container)
    number = own.get("runAsUser", context.get("runAsUser"))
    group = own.get("runAsGroup", context.get("runAsGroup"))
    if number is None and group is None:
        return ""
    if group is None:
        return str(number)
    return f"{'' if number is None else number}:{group}"


def capabilities(container: Mapping[str, Any], key: str) -> list[str]:
    """Those that are added, or dropped (`key`: `add`, `drop`), without the kernel's prefix."""
    wanted = ((container.get("securityContext") or {}).get("capabilities") or {}).get(key) or ()
    return [str(name).removeprefix("CAP_") for name in wanted]


def selinux(pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """The parts of its SELinux label, each `name:value`."""
    context, own = _contexts(pod, container)
    labels = own.get("seLinuxOptions") or context.get("seLinuxOptions") or {}
    return [f"{name}:{labels[name]}" for name in _SELINUX if labels.get(name)]


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


def _contexts(pod: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return pod.get("securityContext") or {}, container.get("securityContext") or {}
