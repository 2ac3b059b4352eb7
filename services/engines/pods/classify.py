"""From backends' error texts to domain errors: podman says nearly everything with HTTP 500, so the text must decide."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.engines.unix_http import shorten
from services.errors import (
    AlreadyExists,
    BeemeshError,
    FailedPrecondition,
    Internal,
    QuotaViolation,
    ResourceExhausted,
)

_RETRY_REGISTRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Texts in which `pattern` is found are this error; the first rule that fits counts."""

    pattern: re.Pattern[str]
    error: type[BeemeshError]
    reason: str
    advice: str


def _rule(pattern: str, error: type[BeemeshError], reason: str, advice: str) -> Rule:
    return Rule(pattern=re.compile(pattern, re.IGNORECASE), error=error, reason=reason, advice=advice)


_ROOM = (
    _rule(
        r"no space left on device|disk quota exceeded",
        ResourceExhausted,
        "DISK_FULL",
        "free disk space where images and containers are kept",
    ),
    _rule(
        r"cannot allocate memory|resource temporarily unavailable|too many open files"
        r"|all \d+ locks have been allocated|(non-overlapping .*address pool|address pools? .*(subnetted|exhausted))",
        ResourceExhausted,
        "RESOURCE_EXHAUSTED",
        "the machine has no more of what this needs; stop other workloads",
    ),
)

START_RULES: Sequence[Rule] = (
    _rule(
        r"address already in use|port is already allocated|ports? .*conflict",
        FailedPrecondition,
        "PORT_IN_USE",
        "choose another hostPort, or stop what listens there",
    ),
    _rule(
        r"cannot assign requested address",
        FailedPrecondition,
        "HOST_IP_NOT_FOUND",
        "hostIP must be an address of this machine",
    ),
    _rule(r"image not known|no such image", FailedPrecondition, "IMAGE_NOT_FOUND", "pull or import it first"),
    _rule(
        r"unable to set memory limit|memory limit .*(too low|minimum)|minimum memory limit",
        ResourceExhausted,
        "MEMORY_LIMIT_TOO_LOW",
        "raise resources.limits.memory: starting the container alone takes more",
    ),
    *_ROOM,
    _rule(
        r"executable file not found|attempted to invoke a command that was not found|OCI permission denied"
        r"|exec format error|workdir .* does not exist|(stat|exec|chdir to cwd) .*: no such file or directory: unknown"
        r"|exec: .*: permission denied: unknown",
        FailedPrecondition,
        "START_FAILED",
        "command, args and workingDir must exist in the image, and the command must be executable",
    ),
    _rule(
        r"statfs .*: no such file or directory|bind source path does not exist",
        FailedPrecondition,
        "START_FAILED",
        "a path of the machine that is to be mounted must be there",
    ),
    _rule(
        r"OCI runtime create failed|unable to find (user|group)|no matching entries in passwd file",
        FailedPrecondition,
        "START_FAILED",
        "the runtime cannot make the container as its manifest has it on this machine",
    ),
    _rule(
        r"(pod|name .*) (already exists|is in use)|is already in use",
        AlreadyExists,
        "NAME_IN_USE",
        "another pod has the name",
    ),
)

PULL_RULES: Sequence[Rule] = (
    *_ROOM,
    _rule(
        r"unauthorized|authentication required|access .*denied|denied:|invalid username/password"
        r"|no basic auth credentials"
        r"|status(code)?:? 40[13]",
        FailedPrecondition,
        "IMAGE_DENIED",
        "the registry wants other credentials, or the name is wrong",
    ),
    _rule(
        r"manifest unknown|name unknown|not known|not found|no such image|status(code)?:? 404|no image found",
        FailedPrecondition,
        "IMAGE_NOT_FOUND",
        "check the name and tag",
    ),
)

_UNREACHABLE = re.compile(
    r"no such host|connection refused|i/o timeout|network is unreachable|no route to host|connection reset"
    r"|server misbehaving|temporary failure in name resolution|TLS handshake timeout|deadline exceeded|certificate"
    r"|server gave HTTP response|status(code)?:? (429|5\d\d)|too ?many ?requests",
    re.IGNORECASE,
)
_LISTEN = re.compile(r"listen (tcp|udp)[46]? (\S*):(\d+)")
_BIND = re.compile(r"Bind for (\S*):(\d+) failed")
_FOLLOW_UP = re.compile(r"a dependency of container \S+ failed to start")


def start_error(texts: Sequence[str], *, workload_id: str, backend: str) -> BeemeshError:
    """The error for what `backend` said to a start; of several texts the one that a rule knows is told first."""
    causes = [text for text in texts if not _FOLLOW_UP.search(text)] or list(texts)
    for rule in START_RULES:
        for text in causes:
            if rule.pattern.search(text):
                metadata = {"workload_id": workload_id, **_port(text)}
                return _error(rule, f"workload {workload_id} cannot start: {shorten(text)}", metadata, backend)
    said = "; ".join(shorten(text) for text in causes)
    return Internal(
        f"{backend} could not start workload {workload_id}: {said}",
        reason="BACKEND_ERROR",
        metadata={"workload_id": workload_id},
    )


def pull_error(text: str, *, image: str, backend: str) -> BeemeshError:
    """The error for a failed pull of `image`, which is not in local storage or must be fetched anew.

    A registry that cannot be reached is IMAGE_NOT_FOUND too: for who deploys, the image is not to be had. It says so
    (metadata `registry`: "unreachable") and, as a retry may help, names a delay.
    """
    if _UNREACHABLE.search(text):
        return FailedPrecondition(
            f"image {image} is not on this machine, and its registry cannot be reached: {shorten(text)}",
            reason="IMAGE_NOT_FOUND",
            metadata={"image": image, "registry": "unreachable"},
            retry_after=_RETRY_REGISTRY_SECONDS,
        )
    for rule in PULL_RULES:
        if rule.pattern.search(text):
            return _error(rule, f"image {image} cannot be had: {shorten(text)}", {"image": image}, backend)
    return Internal(f"{backend} could not pull image {image}: {shorten(text)}", reason="BACKEND_ERROR")


def image_absent(image: str) -> BeemeshError:
    """The error for an image that may not be pulled and is not there."""
    return FailedPrecondition(
        f"image {image} is not on this machine and imagePullPolicy is Never; pull or import it, or allow pulling",
        reason="IMAGE_NOT_FOUND",
        metadata={"image": image},
    )


def _error(rule: Rule, message: str, metadata: Mapping[str, str], backend: str) -> BeemeshError:
    quota = [QuotaViolation(subject=f"node:{backend}", description=message)] if rule.error is ResourceExhausted else []
    return rule.error(f"{message}; {rule.advice}", reason=rule.reason, metadata=metadata, quota=quota)


def _port(text: str) -> dict[str, str]:
    if match := _LISTEN.search(text):
        return {"host_port": match[3], "host_ip": match[2], "protocol": match[1].upper()}
    match = _BIND.search(text)
    return {"host_port": match[2], "host_ip": match[1]} if match else {}
