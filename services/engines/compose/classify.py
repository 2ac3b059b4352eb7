"""From what Compose and the daemon behind it say to domain errors. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.engines.unix_http import shorten
from services.errors import (
    BeemeshError,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    QuotaViolation,
    ResourceExhausted,
    Unavailable,
)
from services.manifests import Document, Path, violation

DEPENDENCY_FAILED = "DEPENDENCY_FAILED"
_RETRY_SECONDS = 5.0
_RETRY_REGISTRY_SECONDS = 30.0
_FIELD = re.compile(r"\b((?:services|networks|volumes|configs|secrets)(?:\.[\w-]+|\[[\w-]+\])*)")
_STEP = re.compile(r"[\w-]+")
_SERVICE = re.compile(r'\bservice "([\w.-]+)"')
_PORT = re.compile(r"(?:Bind for |listen (?:tcp|udp)\w* )([0-9.]*):(\d+)")
_IMAGE = re.compile(
    r"(?:no such image: |pull access denied for |manifest for |repository |docker://)([^\s,:]+(?::[^\s,]+)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    error: type[BeemeshError]
    reason: str
    advice: str
    retry_after: float | None = None


def _rule(pattern: str, error: type[BeemeshError], reason: str, advice: str, retry_after: float | None = None) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), error, reason, advice, retry_after)


_RULES: Sequence[_Rule] = (
    _rule(
        r"cannot connect to the docker daemon|error during connect|docker\.sock.*(refused|no such file)"
        r"|is the docker daemon running",
        Unavailable,
        "BACKEND_UNREACHABLE",
        "start it, or wait until it is back",
        _RETRY_SECONDS,
    ),
    _rule(
        r"route ip\+net: no such network interface",
        Unavailable,
        "BACKEND_UNREACHABLE",
        "an interface went while the daemon looked at them; retry",
        _RETRY_SECONDS,
    ),
    _rule(
        r"port is already allocated|address already in use",
        FailedPrecondition,
        "PORT_IN_USE",
        "publish another port, or stop what listens there",
    ),
    _rule(
        r"cannot assign requested address",
        FailedPrecondition,
        "HOST_IP_NOT_FOUND",
        "the address of a port must be one of this machine",
    ),
    _rule(
        r"invalid reference format|from daemon: invalid ",
        InvalidArgument,
        "MANIFEST_INVALID",
        "correct the file",
    ),
    _rule(
        r"no space left on device|disk quota exceeded",
        ResourceExhausted,
        "DISK_FULL",
        "free disk space where images and containers are kept",
    ),
    _rule(
        r"minimum memory limit allowed|memory limit .*(too low|minimum)|unable to set memory limit",
        ResourceExhausted,
        "MEMORY_LIMIT_TOO_LOW",
        "raise the memory limit: starting the container alone takes more",
    ),
    _rule(
        r"cannot allocate memory|resource temporarily unavailable|too many open files"
        r"|(address pools? .*(subnetted|exhausted|available)|non-overlapping .*address pool)",
        ResourceExhausted,
        "RESOURCE_EXHAUSTED",
        "the machine has no more of what this needs; stop other workloads",
    ),
    _rule(
        r"unauthorized|authentication required|no basic auth credentials|access .*denied|denied:|status.{0,6}40[13]",
        FailedPrecondition,
        "IMAGE_DENIED",
        "the registry wants other credentials, or the name is wrong",
    ),
    _rule(
        r"no such image|manifest (unknown|for .* not found)|name unknown|repository .*not found|image .* not found",
        FailedPrecondition,
        "IMAGE_NOT_FOUND",
        "check the name and tag, or allow pulling",
    ),
    _rule(
        r"(https?://|registry).*(connection refused|no such host|i/o timeout|certificate|deadline exceeded|EOF)"
        r"|request canceled while waiting for connection|TLS handshake",
        Unavailable,
        "REGISTRY_UNREACHABLE",
        "retry later, or check the registry's name and certificate",
        _RETRY_REGISTRY_SECONDS,
    ),
    _rule(
        r"unexpected EOF|connection reset by peer|broken pipe|closed idle connection",
        Unavailable,
        "BACKEND_UNREACHABLE",
        "the daemon has cut the connection; retry",
        _RETRY_SECONDS,
    ),
    _rule(
        r"dependency failed to start|is unhealthy|didn't complete successfully|exited \(\d+\)",
        FailedPrecondition,
        DEPENDENCY_FAILED,
        "another service waits for it: its log and its healthcheck say why",
    ),
    _rule(
        r"executable file not found|permission denied|no such file or directory|exec format error|is a directory"
        r"|not a directory|OCI runtime create failed|no such container user|unable to find (user|group|entry)",
        FailedPrecondition,
        "START_FAILED",
        "command, entrypoint, user and working_dir must fit the image",
    ),
    _rule(
        r"is already in use by container|endpoint with name .* already exists",
        FailedPrecondition,
        "NAME_IN_USE",
        "another container of this machine has the name",
    ),
)


@dataclass(slots=True)
class Said:
    """What a run of Compose has said so far, line by line: progress, warnings, and in the end its error."""

    error: str = ""
    plain: list[str] = field(default_factory=list)
    """Lines that are no JSON."""
    image: str = ""
    """The image that could not be had."""

    def take(self, line: str) -> str:
        """Note one line of `--progress json`; what it says of progress, in words, or nothing."""
        said = _mapping(line)
        if not said:
            if line.strip():
                self.plain.append(line.strip())
            return ""
        if said.get("error") is True:
            self.error = str(said.get("message", ""))
            return ""
        name, text = str(said.get("id", "")), str(said.get("text", ""))
        if said.get("status") == "Error":
            kind, _, what = name.partition(" ")
            self.image = self.image or (what if kind == "Image" else "")
            return ""
        return f"{text.lower()} {name[:1].lower()}{name[1:]}{_bytes(said)}" if name and text else ""

    @property
    def text(self) -> str:
        """Its error, or the last that it wrote."""
        return self.error or " ".join(self.plain[-3:])


def failure(said: Said, *, what: str) -> BeemeshError:
    """The error for an `up`, `pull`, `start` or `stop` that failed; `what` was to be done, to which workload."""
    text = shorten(said.text) or "Compose failed and did not say why"
    for rule in _RULES:
        if rule.pattern.search(text):
            message = f"{what}: {text}; {rule.advice}"
            quota = (
                [QuotaViolation(subject="node:docker", description=message)] if rule.error is ResourceExhausted else []
            )
            return rule.error(
                message,
                reason=rule.reason,
                metadata=_facts(rule.reason, text, said),
                quota=quota,
                retry_after=rule.retry_after,
            )
    return Internal(f"{what}: {text}", reason="BACKEND_ERROR")


def bad_file(text: str, document: Document) -> InvalidArgument:
    """The error for a file that Compose does not take, with the field and line where it names one."""
    said = shorten(re.sub(r"^validating (-|\(stdin\)|[^:]*stdin[^:]*): ", "", text.strip()))
    path = _path(said, document)
    found = violation(document, path, said, "MANIFEST_INVALID") if path else FieldViolation(field_path="", message=said)
    where = f"{found.field_path} (line {found.line}): " if path else ""
    return InvalidArgument(f"invalid Compose file: {where}{said}", reason="MANIFEST_INVALID", violations=[found])


def _path(text: str, document: Document) -> Path:
    match = _FIELD.search(text)
    if match is None:
        service = _SERVICE.search(text)
        return ("services", service[1]) if service and document.root.child("services") else ()
    steps: list[str | int] = []
    node = document.root
    for word in _STEP.findall(match[1]):
        step: str | int = int(word) if word.isdecimal() and node.sequence is not None else word
        child = node.child(step)
        if child is None:
            break
        steps.append(step)
        node = child
    return tuple(steps)


def _facts(reason: str, text: str, said: Said) -> dict[str, str]:
    if reason == "PORT_IN_USE" and (match := _PORT.search(text)):
        return {"host_ip": match[1], "host_port": match[2]}
    if reason.startswith(("IMAGE", "REGISTRY")):
        match = _IMAGE.search(text)
        image = said.image or (match[1].rstrip(":") if match else "")
        return {"image": full_reference(image)} if image else {}
    return {}


def full_reference(image: str) -> str:
    """The reference that is meant: `busybox` is `docker.io/library/busybox:latest`."""
    first, slash, rest = image.partition("/")
    if not slash:
        named = f"docker.io/library/{image}"
    elif "." in first or ":" in first or first == "localhost":
        named = f"docker.io/library/{rest}" if first == "docker.io" and "/" not in rest else image
    else:
        named = f"docker.io/{image}"
    return named if "@" in named or ":" in named.rpartition("/")[2] else f"{named}:latest"


def _bytes(said: Mapping[str, Any]) -> str:
    current, total = said.get("current"), said.get("total")
    return f": {current / 1e6:.1f} of {total / 1e6:.1f} MB" if current and total else ""


def _mapping(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
