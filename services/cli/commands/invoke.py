"""Calling a function."""

from __future__ import annotations

from typing import Any

import click

from services.cli.group import Span, cli, run


@cli.command()
@click.argument("name")
@click.option("-d", "--data", metavar="JSON", help="The event; default: {}.")
@click.option("-f", "--filename", "path", metavar="FILE|-", help="The event from a file, or stdin.")
@click.option("--within", type=Span(), default=None, help="Cut it after this time; at most the function's own timeout.")
@click.option("--logs", is_flag=True, help="Also print what the call wrote, on stderr.")
@click.pass_obj
def invoke(
    options: dict[str, Any], name: str, data: str | None, path: str | None, within: float | None, logs: bool
) -> None:
    """Call a function with an event and print its result, both JSON."""
    from services.cli import invoke as work

    if data is not None and path is not None:
        raise click.UsageError("the event comes from -d or from -f, not from both")
    if within == 0:
        raise click.UsageError("--within must be more than no time")
    call = work.Call(deployment=name, event=work.event(data, path), within=within, logs=logs)
    run(options, lambda session: work.invoke(session, call))
