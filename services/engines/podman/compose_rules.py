"""What podman makes of a Compose file otherwise than docker: fields that are refused, and what is changed in the rest.

Pure. `adjusted` works on a project that is resolved and stamped, `$` doubled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.engines.compose.classify import full_reference
from services.engines.compose.policy import PROJECT, SERVICE, Entries, Refused, Rule
from services.engines.compose.stamp import Model
from services.engines.restarts import Policy

LABEL_RESTART = "beemesh.io/restart"
"""On a container that is to be started again when it ends: `always`, `on-failure` or `on-failure:3`."""
_ALWAYS = ("always", "unless-stopped", "any", "")
_LOCAL_LOGS = ("", "json-file", "local")

_DROPPED = Refused("would be dropped by podman without a word")

RULES: Rule = {
    **PROJECT,
    "services": Entries(
        {
            **SERVICE,
            "dns": Refused("would keep the services of this file from finding each other on podman"),
            "domainname": _DROPPED,
        }
    ),
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
