"""What apply and plan ask beyond the manifest: variables, and options of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click
from beemesh.engine.v1.workload_pb2 import DeploymentConfig


def configuration(env: Sequence[str], options: Sequence[str], own: Mapping[str, str]) -> DeploymentConfig:
    """The config of `NAME=VALUE`s; a variable without a value has that of `own`, the caller's environment.

    So a secret need not stand on a command line. Raises UsageError for one that `own` does not have.
    """
    return DeploymentConfig(env=dict(_variables(env, own)), engine_options=dict(_pairs("--option", options)))


def _variables(given: Sequence[str], own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for text in given:
        if "=" not in text and text not in own:
            raise click.UsageError(f"--env {text}: there is no such variable here; write NAME=VALUE")
        yield from _pairs("--env", [text if "=" in text else f"{text}={own[text]}"])


def _pairs(flag: str, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in given:
        name, is_set, value = text.partition("=")
        if not name or not is_set:
            raise click.UsageError(f"{flag} {text}: expected NAME=VALUE")
        yield name, value
