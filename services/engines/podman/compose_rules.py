"""What podman makes of a Compose file otherwise than docker: fields that are refused, and what is changed in the rest.

Pure. `adjusted` works on a project that is resolved and stamped, `$` doubled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.engines.compose.classify import full_reference
from services.engines.compose.fields import UNSUPPORTED_FIELD, Finding
from services.engines.compose.policy import (
    MOUNT,
    NETWORK,
    PROJECT,
    SERVICE,
    Entries,
    Honoured,
    Judged,
    Only,
    Refused,
    Rule,
    Tree,
    Without,
)
from services.engines.compose.stamp import Model
from services.engines.podman.ability import Ability
from services.engines.restarts import Policy
from services.manifests import Path
from services.manifests.lookup import mapping_at, value_at

LABEL_RESTART = "beemesh.io/restart"
"""On a container that is to be started again when it ends: `always`, `on-failure` or `on-failure:3`."""
_ALWAYS = ("always", "unless-stopped", "any", "")
_NO_TIME = ("0", "0s", "0ms")
_LOCAL_LOGS = ("", "json-file", "local")

_DROPPED = Refused("would be dropped by podman without a word")
_GATEWAY = Without("host-gateway", Refused("would be written down as a word by podman, and not as an address"))
_MOUNT: Tree = {
    **MOUNT,
    "volume": {"labels": Honoured(), "nocopy": Only((False,), _DROPPED), "subpath": _DROPPED},
}
_NETWORK: Rule = {
    **NETWORK,
    "enable_ipv4": Only((True,), _DROPPED),
    "ipam": {
        "driver": Honoured(),
        "options": _DROPPED,
        "config": Entries({"subnet": Honoured(), "gateway": Honoured(), "ip_range": Honoured()}),
    },
}

RULES: Rule = {
    **PROJECT,
    "services": Entries(
        {
            **SERVICE,
            "annotations": _DROPPED,
            "blkio_config": _DROPPED,
            "dns": Refused("would keep the services of this file from finding each other on podman"),
            "domainname": _DROPPED,
            "extra_hosts": Entries(_GATEWAY, text=_GATEWAY),
            "links": Refused("is not there on podman: services find each other by their names, and by aliases"),
            "networks": Entries(
                {
                    "aliases": Honoured(),
                    "driver_opts": _DROPPED,
                    "ipv4_address": Honoured(),
                    "ipv6_address": Honoured(),
                    "mac_address": Honoured(),
                    **dict.fromkeys(("gw_priority", "interface_name", "link_local_ips", "priority"), _DROPPED),
                }
            ),
            "volumes": Entries(Judged("mount", _MOUNT), text=Judged("mount")),
        }
    ),
    "networks": Entries(_NETWORK),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """What this machine's podman needs."""

    ulimits: Mapping[str, int] = field(default_factory=dict)
    """Where podman may not set its own: what a service that sets some gets for the others."""

    def of(self, model: Model) -> Model:
        """The project for podman."""
        services = {name: self._service(service) for name, service in (model.get("services") or {}).items()}
        return {**model, "services": services}

    def _service(self, service: Model) -> Model:
        changed = {**service, "image": full_image(str(service["image"]))} if service.get("image") else dict(service)
        restart = restart_of(changed)
        changed["restart"] = "no"  # we start it again ourselves
        if deploy := changed.get("deploy"):
            changed["deploy"] = {key: value for key, value in deploy.items() if key != "restart_policy"}
        if restart:
            changed["labels"] = {**(changed.get("labels") or {}), LABEL_RESTART: restart}
        if changed.get("stop_grace_period") in _NO_TIME:
            changed["stop_grace_period"] = "1s"  # to podman 0 is ten seconds
        if changed.get("ulimits"):
            changed["ulimits"] = {**self.ulimits, **changed["ulimits"]}
        logging = changed.get("logging") or {}
        if (logging.get("driver") or "") in _LOCAL_LOGS:
            changed["logging"] = {**logging, "driver": "json-file"}
        return changed


def full_image(image: str) -> str:
    """The image that docker would take: podman may ask other registries for a short name."""
    return image if image.startswith("sha256:") else full_reference(image)


def restart_of(service: Mapping[str, Any]) -> str:
    """What Compose would tell the daemon; empty for never."""
    policy = (service.get("deploy") or {}).get("restart_policy")
    if policy is not None:
        word, attempts = str(policy.get("condition") or "any"), policy.get("max_attempts")
    else:
        word, _, count = str(service.get("restart") or "no").partition(":")
        attempts = int(count) if count.isdecimal() else None
    if word in _ALWAYS:
        return "always"
    if word == "on-failure":
        return f"on-failure:{attempts}" if attempts else "on-failure"
    return ""


def orders_of(marks: Mapping[str, str]) -> tuple[Policy, int | None]:
    """By its labels: whether a container is started again, and how often at most (None: without end)."""
    word, _, count = marks.get(LABEL_RESTART, "").partition(":")
    if word == "always":
        return Policy.ALWAYS, None
    if word == "on-failure":
        return Policy.ON_FAILURE, int(count) if count.isdecimal() else None
    return Policy.NEVER, None


def lacking(body: Mapping[str, Any], ability: Ability) -> Iterator[Finding]:
    """What this podman, which is not root's, would drop or could not start with."""
    for name in mapping_at(body, ("services",)):
        service: Path = ("services", name)
        for resource, fields in _LIMITS.items():
            for field_ in () if getattr(ability, resource) else fields:
                if value_at(body, (*service, *field_)) is not None:
                    message = f"rootless podman cannot limit {resource} here, and would run it without"
                    yield Finding((*service, *field_), message, UNSUPPORTED_FIELD)
        for index, port in enumerate(value_at(body, (*service, "ports")) or ()):
            if 0 < _published(port) < ability.lowest_port:
                message = f"rootless podman cannot publish ports below {ability.lowest_port}"
                yield Finding((*service, "ports", index), message, UNSUPPORTED_FIELD)


_LIMITS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "cpu": (
        ("deploy", "resources", "limits", "cpus"),
        *((name,) for name in ("cpus", "cpu_period", "cpu_quota", "cpu_shares", "cpuset")),
    ),
    "memory": (
        ("deploy", "resources", "limits", "memory"),
        *((name,) for name in ("mem_limit", "mem_reservation", "memswap_limit", "mem_swappiness")),
    ),
}


def _published(port: object) -> int:
    """The lowest port of the machine that is asked for; 0 where that cannot be told, or is podman's choice."""
    text = port.get("published") if isinstance(port, Mapping) else str(port).partition("/")[0]
    if not isinstance(port, Mapping):
        text = str(text).rpartition(":")[0].rpartition(":")[2]
    first = str(text or "").partition("-")[0]
    return int(first) if first.isdecimal() else 0
