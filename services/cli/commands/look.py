"""Looking at deployments: list them, tell all of one, follow what it writes, uses and becomes."""

from __future__ import annotations

from typing import Any

import click

from services.cli.group import cli, component_option, output_option, run


@cli.command()
@click.argument("name", default="")
@output_option("name")
@click.pass_obj
def get(options: dict[str, Any], name: str, output: str) -> None:
    """List deployments, or show one."""
    from services.cli import show

    run(options, lambda session: show.get(session, name, output))


@cli.command()
@click.argument("name")
@click.pass_obj
def describe(options: dict[str, Any], name: str) -> None:
    """Say all there is to know about a deployment."""
    from services.cli import show

    run(options, lambda session: show.describe(session, name))


@cli.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written; Ctrl-C ends it.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines of each component.")
@component_option
@click.pass_obj
def logs(options: dict[str, Any], name: str, follow: bool, tail: int | None, component: str) -> None:
    """Print what a deployment writes."""
    from services.cli import live

    run(options, lambda session: live.logs(session, name, component=component, follow=follow, tail=tail))


@cli.command()
@click.argument("name")
@output_option()
@click.pass_obj
def stats(options: dict[str, Any], name: str, output: str) -> None:
    """Print what a deployment's components use now."""
    from services.cli import live

    run(options, lambda session: live.stats(session, name, output=output))


@cli.command()
@click.argument("name", default="")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="json: one line a change.")
@click.pass_obj
def watch(options: dict[str, Any], name: str, output: str) -> None:
    """Print deployments, or one, as they change; Ctrl-C ends it."""
    from services.cli import live

    run(options, lambda session: live.watch(session, name, output=output))
