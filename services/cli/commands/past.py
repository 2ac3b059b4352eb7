"""What was: events, revisions, and the way back to one."""

from __future__ import annotations

from typing import Any

import click

from services.cli.group import cli, output_option, run, wait_option


@cli.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen; Ctrl-C ends it.")
@output_option()
@click.pass_obj
def events(options: dict[str, Any], name: str, follow: bool, output: str) -> None:
    """Say what happened to a deployment."""
    from services.cli import history

    run(options, lambda session: history.events(session, name, follow=follow, output=output))


@cli.command()
@click.argument("name")
@output_option()
@click.pass_obj
def revisions(options: dict[str, Any], name: str, output: str) -> None:
    """List the contents that a deployment had."""
    from services.cli import history

    run(options, lambda session: history.revisions(session, name, output=output))


@cli.command()
@click.argument("name")
@click.option("--to", "revision", type=click.IntRange(min=0), default=0, help="This revision; default: the last good.")
@wait_option("60s", "Until it runs.")
@click.pass_obj
def rollback(options: dict[str, Any], name: str, revision: int, wait: float) -> None:
    """Run an earlier revision again."""
    from services.cli import history

    run(options, lambda session: history.rollback(session, name, revision=revision, wait=wait))
