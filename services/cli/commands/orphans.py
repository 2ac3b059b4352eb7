"""Orphans: list, adopt, purge."""

from __future__ import annotations

from typing import Any

import click

from services.cli.group import cli, output_option, run, wait_option


@cli.group()
def orphans() -> None:
    """List, adopt or purge what no deployment claims."""


@orphans.command("list")
@output_option()
@click.pass_obj
def list_(options: dict[str, Any], output: str) -> None:
    """List them; they run on until somebody decides."""
    from services.cli import orphans as work

    run(options, lambda session: work.show(session, output=output))


@orphans.command()
@click.argument("workload")
@click.option("--id", "deployment_id", default="", help="The deployment's id; default: the one in its labels.")
@click.pass_obj
def adopt(options: dict[str, Any], workload: str, deployment_id: str) -> None:
    """Make a deployment of one again; it runs on as it is."""
    from services.cli import orphans as work

    run(options, lambda session: work.adopt(session, workload, deployment_id=deployment_id))


@orphans.command()
@click.argument("workload", default="")
@click.option("--engine", default="", metavar="ENGINE", help="Only those of this engine.")
@click.option("--force", is_flag=True, help="Remove them; without it they are only named.")
@wait_option("2m", "Until they are gone.")
@click.pass_obj
def purge(options: dict[str, Any], workload: str, engine: str, force: bool, wait: float) -> None:
    """Remove one, or all; named volumes stay."""
    from services.cli import orphans as work

    run(options, lambda session: work.purge(session, workload, engine=engine, force=force, wait=wait))
