"""A deployment's life after its apply: stop, start, restart, wait, delete."""

from __future__ import annotations

import sys
from typing import Any

import click

from services.cli.group import Span, cli, run, wait_option

_STATES = ("ACTIVE", "SUCCEEDED", "FAILED", "DEGRADED", "ROLLED_BACK", "STOPPED", "UNKNOWN")
_grace = click.option("--grace", type=Span(), default=None, help="Before it is killed; default: the manifest's.")


@cli.command()
@click.argument("name")
@_grace
@wait_option("60s", "Until it is stopped.")
@click.pass_obj
def stop(options: dict[str, Any], name: str, grace: float | None, wait: float) -> None:
    """Stop a deployment and keep it, also over a reboot."""
    _control(options, name, "stop", grace=grace, wait=wait)


@cli.command()
@click.argument("name")
@wait_option("60s", "Until it runs.")
@click.pass_obj
def start(options: dict[str, Any], name: str, wait: float) -> None:
    """Start what was stopped, as it was."""
    _control(options, name, "start", grace=None, wait=wait)


@cli.command()
@click.argument("name")
@_grace
@wait_option("60s", "Until it runs again.")
@click.pass_obj
def restart(options: dict[str, Any], name: str, grace: float | None, wait: float) -> None:
    """Stop and start in place: the same containers, the same data."""
    _control(options, name, "restart", grace=grace, wait=wait)


def _control(options: dict[str, Any], name: str, verb: str, *, grace: float | None, wait: float) -> None:
    from services.cli import power

    if not run(options, lambda session: power.control(session, name, power.VERBS[verb], grace=grace, wait=wait)):
        sys.exit(1)


@cli.command()
@click.argument("name")
@click.option("--volumes", is_flag=True, help="Delete its named volumes too; they are kept otherwise.")
@click.option("--force", is_flag=True, help="Kill at once instead of stopping.")
@click.option("--ignore-not-found", "missing_ok", is_flag=True, help="It is well if there is none.")
@wait_option("2m", "Until it is gone.")
@click.pass_obj
def delete(options: dict[str, Any], name: str, volumes: bool, force: bool, missing_ok: bool, wait: float) -> None:
    """Stop a deployment and remove it."""
    from services.cli import deploy

    if not run(
        options,
        lambda session: deploy.delete(session, name, volumes=volumes, force=force, missing_ok=missing_ok, wait=wait),
    ):
        sys.exit(1)


@cli.command("wait")
@click.argument("name")
@click.option(
    "--for",
    "states",
    multiple=True,
    type=click.Choice(_STATES, case_sensitive=False),
    help="Default: ACTIVE or SUCCEEDED; may be repeated.",
)
@click.option("--timeout", type=Span(), default="60s", show_default=True, help="How long at most.")
@click.pass_obj
def wait_for(options: dict[str, Any], name: str, states: tuple[str, ...], timeout: float) -> None:
    """Wait until a deployment runs, or is in another state."""
    from services.cli import history

    run(options, lambda session: history.wait(session, name, states=states, timeout=timeout))
