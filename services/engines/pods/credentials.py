"""Which logins a manifest's imagePullSecrets hold for an image, in the formats of `docker login`. Pure.

Hosts are matched as Kubernetes matches them. Passwords are in no representation and no error.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from services.errors import FailedPrecondition
from services.manifests import Document

_KEYS = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}
_SCHEME = re.compile(r"^https?://")
_API_PATH = re.compile(r"/v[12]/?$")
_DOCKER_HUB = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One user of one registry."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def header(self) -> str:
        """What X-Registry-Auth carries. One login stays in podman's memory; a map by host would be a file."""
        named = {"username": self.username, "password": self.password, "identitytoken": self.identity_token}
        said = {name: value for name, value in named.items() if value}
        return base64.urlsafe_b64encode(json.dumps(said).encode()).decode()

    def hidden_in(self, text: str) -> str:
        """The text without this login's secrets."""
        for secret in (self.password, self.identity_token):
            if secret:
                text = text.replace(secret, "***")
        return text


def logins_for(reference: str, secrets: Sequence[str], documents: Sequence[Document]) -> tuple[Login, ...]:
    """The logins that fit a full reference: as the secrets are named, and of each the most exact path first.

    Raises FailedPrecondition(IMAGE_PULL_SECRET_INVALID) for a secret that is no document of the manifest, or that holds
    no logins.
    """
    found = [
        login
        for name in secrets
        for pattern, login in sorted(_entries(name, documents), key=lambda entry: -len(entry[0]))
        if _fits(pattern, reference)
    ]
    return tuple(dict.fromkeys(found))


def pull_secrets(documents: Sequence[Document]) -> tuple[str, ...]:
    """The names in the imagePullSecrets of a manifest's pods."""
    specs = [item.body.get("spec") or {} for item in documents if item.is_workload]
    pods = [(spec.get("template") or {}).get("spec") or spec for spec in specs]
    return tuple(secret["name"] for pod in pods for secret in pod.get("imagePullSecrets") or [])


def _entries(name: str, documents: Sequence[Document]) -> Iterator[tuple[str, Login]]:
    """The hosts (and paths) that a secret knows, each with its login."""
    secret = next((item for item in documents if item.kind == "Secret" and item.name == name), None)
    if secret is None:
        raise _invalid(name, "is not among the manifest's documents")
    key = _KEYS.get(secret.body.get("type", ""))
    if key is None:
        raise _invalid(name, f"must be of type {' or '.join(_KEYS)}")
    try:
        held = json.loads(_value(secret.body, key))
        entries: Mapping[str, Any] = held["auths"] if key == ".dockerconfigjson" else held
        yield from [(_pattern(host), _login(entry)) for host, entry in entries.items()]
    except (ValueError, TypeError, KeyError, AttributeError):
        # without the cause: it would quote what is secret
        raise _invalid(name, f"must hold, under {key}, what docker login writes") from None


def _value(body: Mapping[str, Any], key: str) -> bytes:
    plain = (body.get("stringData") or {}).get(key)
    if plain is not None:
        return str(plain).encode()
    return base64.b64decode((body.get("data") or {})[key], validate=False)


def _login(entry: Mapping[str, Any]) -> Login:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().rstrip("\0").partition(":")
        except binascii.Error as error:
            raise ValueError from error
    return Login(username=username, password=password, identity_token=str(entry.get("identitytoken", "")))


def _pattern(host: str) -> str:
    """`https://host:port/v1/` is `host:port`; all names of Docker Hub are `docker.io`."""
    plain = _API_PATH.sub("", _SCHEME.sub("", host)).rstrip("/")
    first, slash, rest = plain.partition("/")
    return ("docker.io" if first in _DOCKER_HUB else first) + slash + rest


def _fits(pattern: str, reference: str) -> bool:
    """The host's parts match one by one, `*` within a part; the port must be the same; a path is a prefix."""
    wanted, _, prefix = pattern.partition("/")
    host, _, path = reference.partition("/")
    wanted_name, _, wanted_port = wanted.partition(":")
    name, _, port = host.partition(":")
    parts = list(zip(wanted_name.split("."), name.split("."), strict=False))
    return (
        wanted_port == port
        and wanted_name.count(".") == name.count(".")
        and all(fnmatchcase(part, glob) for glob, part in parts)
        and (not prefix or path == prefix or path.startswith((f"{prefix}/", f"{prefix}:", f"{prefix}@")))
    )


def _invalid(name: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"imagePullSecrets: Secret {name} {why}", reason="IMAGE_PULL_SECRET_INVALID", metadata={"secret": name}
    )
