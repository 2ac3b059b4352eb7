"""Manifests: apply them, say what an apply would change, and which engine it would be."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from services.cli.group import (
    cli,
    engine_option,
    env_option,
    fallback_option,
    option_option,
    output_option,
    run,
    wait_option,
)

_path = click.option("-f", "--filename", "path", required=True, metavar="FILE|-", help="A manifest, or stdin.")


@cli.command()
@click.option(
    "-f",
    "--filename",
    "paths",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="A manifest, a directory of them, or stdin; may be repeated.",
)
@click.option(
    "--id",
    "deployment_id",
    default="",
    help="The deployment's id; default: from the manifest's kind, namespace and name.",
)
@engine_option
@fallback_option
@env_option
@option_option
@wait_option("60s", "Until it runs; 0: until it is accepted.")
@click.option("--dry-run", is_flag=True, help="Check it and say what would happen; touch nothing.")
@click.pass_obj
def apply(
    options: dict[str, Any],
    paths: tuple[str, ...],
    deployment_id: str,
    engine: str,
    fallback: str | None,
    env: tuple[str, ...],
    engine_options: tuple[str, ...],
    wait: float,
    dry_run: bool,
) -> None:
    """Make deployments match manifests."""
    from services.cli import deploy, sources
    from services.cli.configuration import configuration

    found = sources.read(paths)
    if deployment_id and len(found) > 1:
        raise click.UsageError(f"--id names one deployment, {len(found)} manifests were given")
    how = deploy.Apply(
        deployment_id=deployment_id,
        engine=engine,
        fallback=fallback or "",
        config=configuration(env, engine_options, os.environ),
        wait=wait,
        dry_run=dry_run,
    )
    if not run(options, lambda session: deploy.apply(session, found, how)):
        sys.exit(1)


@cli.command()
@_path
@engine_option
@fallback_option
@env_option
@option_option
@output_option()
@click.pass_obj
def select(
    options: dict[str, Any],
    path: str,
    engine: str,
    fallback: str | None,
    env: tuple[str, ...],
    engine_options: tuple[str, ...],
    output: str,
) -> None:
    """Say which engine a manifest would run on, and why."""
    from services.cli import deploy, sources
    from services.cli.configuration import configuration

    found = sources.read([path])
    if len(found) != 1:
        raise click.UsageError(f"one manifest is wanted, {path} has {len(found)}")
    config = configuration(env, engine_options, os.environ)
    run(
        options,
        lambda session: deploy.select(
            session, found[0], engine=engine, fallback=fallback or "", config=config, output=output
        ),
    )


@cli.command()
@_path
@click.option("--id", "deployment_id", default="", help="The deployment's id, as for apply.")
@engine_option
@fallback_option
@env_option
@option_option
@output_option()
@click.pass_obj
def plan(
    options: dict[str, Any],
    path: str,
    deployment_id: str,
    engine: str,
    fallback: str | None,
    env: tuple[str, ...],
    engine_options: tuple[str, ...],
    output: str,
) -> None:
    """Say what an apply would change; touch nothing."""
    from services.cli import history, sources
    from services.cli.configuration import configuration

    found = sources.read([path])
    if len(found) != 1:
        raise click.UsageError(f"one manifest is wanted, {path} has {len(found)}")
    config = configuration(env, engine_options, os.environ)
    run(
        options,
        lambda session: history.plan(
            session,
            found[0],
            deployment_id=deployment_id,
            engine=engine,
            fallback=fallback or "",
            config=config,
            output=output,
        ),
    )
