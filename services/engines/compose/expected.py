"""Which containers a Compose file comes to, where the file alone says so. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.engines.engine import Config, place

_VARIABLE = "$"
_EVERY = "*"


class _Unknown(Exception):
    """Only Compose can tell."""


def components(body: Mapping[str, Any], config: Config, profiles: Collection[str]) -> Sequence[str]:
    """The places of all containers; none where a variable, or a service of another name, has a say in it."""
    services: Mapping[str, Any] = body.get("services") or {}
    try:
        counts = {
            name: _count(service or {}, config) for name, service in services.items() if _is_on(service, profiles)
        }
    except _Unknown:
        return ()
    return [place(number, name) for name, count in counts.items() for number in range(count)]


def _is_on(service: Mapping[str, Any], profiles: Collection[str]) -> bool:
    if service.get("extends"):
        raise _Unknown
    own = [_plain(name) for name in service.get("profiles") or ()]
    return not own or _EVERY in profiles or any(name in profiles for name in own)


def _count(service: Mapping[str, Any], config: Config) -> int:
    if config.replicas is not None:
        return config.replicas
    replicas = (service.get("deploy") or {}).get("replicas")
    given = service.get("scale") if replicas is None else replicas
    text = _plain(1 if given is None else given)
    if not text.isdecimal():
        raise _Unknown
    return int(text)


def _plain(value: object) -> str:
    if _VARIABLE in (text := str(value)):
        raise _Unknown
    return text
