"""What was applied against what runs: drift, reconcile, export."""

from __future__ import annotations

import sys
from typing import Any

import click

from services.cli.group import cli, output_option, run, wait_option


@cli.command()
@click.argument("name")
@output_option()
@click.pass_obj
def drift(options: dict[str, Any], name: str, output: str) -> None:
    """Say what of it is not as applied; 1 if any."""
    from services.cli import repair

    if not run(options, lambda session: repair.drift(session, name, output=output)):
        sys.exit(1)


@cli.command()
@click.argument("name")
@wait_option("60s", "Until it runs.")
@click.pass_obj
def reconcile(options: dict[str, Any], name: str, wait: float) -> None:
    """Make what runs what was applied, now."""
    from services.cli import repair

    run(options, lambda session: repair.reconcile(session, name, wait=wait))


@cli.command()
@click.argument("name")
@click.option("--live", is_flag=True, help="As it runs now, written by its engine.")
@click.pass_obj
def export(options: dict[str, Any], name: str, live: bool) -> None:
    """Print a deployment's manifest, to the byte."""
    from services.cli import repair

    run(options, lambda session: repair.export(session, name, live=live))
