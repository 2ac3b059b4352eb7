"""The variables of a container, all references resolved, as Kubernetes resolves them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.engines.pods.downward import Facts
from services.engines.pods.sources import Data, Sources

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


def environment(
    container: Mapping[str, Any], *, facts: Facts, sources: Sources, extra: Mapping[str, str]
) -> dict[str, str]:
    """The variables: envFrom first, env over it, the caller's `extra` over both.

    `$(NAME)` in a literal refers to what stands before it. What is optional and not there is left out.
    """
    env = _from_all(container, facts.template.namespace, sources)
    for entry in container.get("env") or ():
        if source := entry.get("valueFrom"):
            value = _value_from(source, container["name"], facts, sources)
            if value is not None:
                env[entry["name"]] = value
        else:
            env[entry["name"]] = expand(str(entry.get("value", "")), env)
    return {**env, **extra}


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does: unknown names stay as they are, `$$` is a `$` that starts no reference."""

    def one(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    return _REFERENCE.sub(one, text)


def _from_all(container: Mapping[str, Any], namespace: str, sources: Sources) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix", "")
        data: Data = {}
        if reference := source.get("configMapRef"):
            data = sources.config_map(namespace, reference["name"]) or {}
        elif reference := source.get("secretRef"):
            data = sources.secret(namespace, reference["name"]) or {}
        for key, value in data.items():
            text = _text(value)
            if text is not None and "=" not in prefix + key:
                env[prefix + key] = text
    return env


def _value_from(source: Mapping[str, Any], container: str, facts: Facts, sources: Sources) -> str | None:
    if reference := source.get("configMapKeyRef"):
        data = sources.config_map(facts.template.namespace, reference["name"]) or {}
        return _text(data.get(reference["key"]))
    if reference := source.get("secretKeyRef"):
        data = sources.secret(facts.template.namespace, reference["name"]) or {}
        return _text(data.get(reference["key"]))
    if reference := source.get("fieldRef"):
        return facts.field(reference["fieldPath"])
    if reference := source.get("resourceFieldRef"):
        return facts.resource(reference, container=container)
    return None


def _text(value: bytes | None) -> str | None:
    """What a variable can hold; bytes that are no text are left out of an envFrom, and refused elsewhere."""
    if value is None or b"\0" in value:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
