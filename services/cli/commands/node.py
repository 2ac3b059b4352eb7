"""The node and its neighbours: its engines, who provides what, and its version."""

from __future__ import annotations

from typing import Any

import click

from services.cli.group import access, cli, output_option, run


@cli.command()
@click.option("--probe", is_flag=True, help="Ask each engine now instead of believing its last health.")
@output_option()
@click.pass_obj
def engines(options: dict[str, Any], probe: bool, output: str) -> None:
    """List the node's engines; * marks the default."""
    from services.cli import show

    run(options, lambda session: show.engines(session, probe=probe, output=output))


@cli.command()
@click.argument("manifest")
@click.option("--engine", "runtime_engines", multiple=True, help="Only those that run it on this engine.")
@click.option("--capability", "capabilities", multiple=True, help="Only nodes that have this engine too.")
@output_option()
@click.pass_obj
def providers(
    options: dict[str, Any], manifest: str, runtime_engines: tuple[str, ...], capabilities: tuple[str, ...], output: str
) -> None:
    """Find who runs a manifest (its id is the deployment's)."""
    from services.cli import show

    run(
        options,
        lambda session: show.providers(
            session, manifest, engines=runtime_engines, capabilities=capabilities, output=output
        ),
    )


@cli.command()
@click.pass_obj
def version(options: dict[str, Any]) -> None:
    """Print beectl's version and the node it speaks to."""
    from services.cli import show

    target = access(options).target()
    run(options, lambda session: show.version(session, target))
