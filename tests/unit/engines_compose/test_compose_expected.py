"""Which containers a Compose file comes to, by itself."""

from __future__ import annotations

import pytest

from services.engines.compose.expected import components
from services.engines.engine import Config
from services.manifests import parse


def places(services: str, *, profiles: tuple[str, ...] = (), replicas: int | None = None) -> list[str]:
    """Of a file with these services."""
    return list(components(parse(f"services:\n{services}").primary.body, Config(replicas=replicas), profiles))


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ("  web: {image: x}\n  db: {image: x}\n", ["0/web", "0/db"]),
        ("  web: {image: x, scale: 2}\n", ["0/web", "1/web"]),
        ("  web: {image: x, deploy: {replicas: 3}}\n", ["0/web", "1/web", "2/web"]),
        ("  web: {image: x, deploy: {replicas: 0}}\n  db: {image: x}\n", ["0/db"]),
        ("  web: {image: x}\n  debug: {image: x, profiles: [d]}\n", ["0/web"]),
    ],
)
def test_replicas_and_profiles_are_counted(services: str, expected: list[str]) -> None:
    """One of each service that is on, or as many as the file says."""
    assert places(services) == expected


@pytest.mark.parametrize(
    "service",
    ['{image: x, scale: "${N:-2}"}', '{image: x, profiles: ["$P"]}', "{extends: {service: db}}"],
)
def test_what_only_compose_can_tell_is_not_guessed(service: str) -> None:
    """A variable, or another service's fields."""
    assert places(f"  web: {service}\n  db: {{image: x}}\n") == []


def test_the_request_beats_the_file() -> None:
    """In the number of replicas, and by its profiles."""
    text = "  web: {image: x, scale: 2}\n  debug: {image: x, profiles: [d]}\n"
    assert places(text, replicas=1) == ["0/web"]
    assert places(text, profiles=("d",)) == ["0/web", "1/web", "0/debug"]
    assert places(text, profiles=("*",)) == ["0/web", "1/web", "0/debug"]
