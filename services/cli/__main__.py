"""`beectl`: the commands and their options; what they do is imported when it is asked for, so that help is quick."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from services.cli.session import Access, Session

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_WAIT_MAX = 86_400.0
_STATES = ("ACTIVE", "SUCCEEDED", "FAILED", "DEGRADED", "ROLLED_BACK", "STOPPED", "UNKNOWN")


class Span(click.ParamType[float]):
    """A time span such as 500ms, 60s, 5m, 1h or a bare number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
        if match is None or float(match[1]) * _UNITS[match[2]] > _WAIT_MAX:
            self.fail(f"{value!r} is no time span of at most 24h; write 60s, 5m or 0", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def _output(*extra: str) -> Callable[[Any], Any]:
    choice = click.Choice(["table", "json", "yaml", *extra])
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help="How to print it.")


_engine = click.option(
    "--engine", default="", metavar="ENGINE", help="Use this engine (podman, …), whatever the manifest says."
)
_fallback = click.option(
    "--fallback",
    type=click.Choice(["none", "compatible", "any"]),
    default=None,
    help="Which other engines may be used when the chosen one fails.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--address",
    envvar="BEEMESH_ADDRESS",
    default="",
    help="unix:/path or host:port; default: this machine's node. [BEEMESH_ADDRESS]",
)
@click.option(
    "--token-file",
    envvar="BEEMESH_TOKEN_FILE",
    type=click.Path(path_type=Path),
    help="Opens the public port; a socket needs none. [BEEMESH_TOKEN_FILE]",
)
@click.option(
    "--ca",
    "root_certificate",
    envvar="BEEMESH_CA",
    type=click.Path(exists=True, path_type=Path),
    help="Root certificate (PEM): speak TLS. [BEEMESH_CA]",
)
@click.option("--timeout", type=Span(), default="30s", show_default=True, help="For calls that wait for nothing.")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Run workloads on this machine's engines, and look after them."""
    context.obj = options


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
@_engine
@_fallback
@click.option("--wait", type=Span(), default="60s", show_default=True, help="Until it runs; 0: until it is accepted.")
@click.option("--dry-run", is_flag=True, help="Check it and say what would happen; touch nothing.")
@click.pass_obj
def apply(
    options: dict[str, Any],
    paths: tuple[str, ...],
    deployment_id: str,
    engine: str,
    fallback: str | None,
    wait: float,
    dry_run: bool,
) -> None:
    """Make deployments match manifests."""
    from services.cli import deploy, sources

    found = sources.read(paths)
    if deployment_id and len(found) > 1:
        raise click.UsageError(f"--id names one deployment, {len(found)} manifests were given")
    how = deploy.Apply(deployment_id=deployment_id, engine=engine, fallback=fallback or "", wait=wait, dry_run=dry_run)
    if not _run(options, lambda session: deploy.apply(session, found, how)):
        sys.exit(1)


@cli.command()
@click.argument("name", default="")
@_output("name")
@click.pass_obj
def get(options: dict[str, Any], name: str, output: str) -> None:
    """List deployments, or show one."""
    from services.cli import show

    _run(options, lambda session: show.get(session, name, output))


@cli.command()
@click.argument("name")
@click.pass_obj
def describe(options: dict[str, Any], name: str) -> None:
    """Say all there is to know about a deployment."""
    from services.cli import show

    _run(options, lambda session: show.describe(session, name))


@cli.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written; Ctrl-C ends it.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines of each component.")
@click.option("-c", "--component", default="", help="Only this component (container).")
@click.pass_obj
def logs(options: dict[str, Any], name: str, follow: bool, tail: int | None, component: str) -> None:
    """Print what a deployment writes."""
    from services.cli import show

    _run(options, lambda session: show.logs(session, name, component=component, follow=follow, tail=tail))


@cli.command()
@click.argument("name")
@click.option("--volumes", is_flag=True, help="Delete its named volumes too; they are kept otherwise.")
@click.option("--force", is_flag=True, help="Kill at once instead of stopping.")
@click.option("--ignore-not-found", "missing_ok", is_flag=True, help="It is well if there is none.")
@click.option("--wait", type=Span(), default="2m", show_default=True, help="Until it is gone.")
@click.pass_obj
def delete(options: dict[str, Any], name: str, volumes: bool, force: bool, missing_ok: bool, wait: float) -> None:
    """Stop a deployment and remove it."""
    from services.cli import deploy

    _run(
        options,
        lambda session: deploy.delete(session, name, volumes=volumes, force=force, missing_ok=missing_ok, wait=wait),
    )


@cli.command()
@click.option("--probe", is_flag=True, help="Ask each engine now instead of believing its last health.")
@_output()
@click.pass_obj
def engines(options: dict[str, Any], probe: bool, output: str) -> None:
    """List the node's engines and whether they can be used; * marks the default."""
    from services.cli import show

    _run(options, lambda session: show.engines(session, probe=probe, output=output))


@cli.command()
@click.argument("manifest")
@click.option("--engine", "runtime_engines", multiple=True, help="Only those that run it on this engine.")
@click.option("--capability", "capabilities", multiple=True, help="Only nodes that have this engine too.")
@_output()
@click.pass_obj
def providers(
    options: dict[str, Any], manifest: str, runtime_engines: tuple[str, ...], capabilities: tuple[str, ...], output: str
) -> None:
    """Find who runs a manifest (its id is the deployment's)."""
    from services.cli import show

    _run(
        options,
        lambda session: show.providers(
            session, manifest, engines=runtime_engines, capabilities=capabilities, output=output
        ),
    )


@cli.command()
@click.option("-f", "--filename", "path", required=True, metavar="FILE|-", help="A manifest, or stdin.")
@_engine
@_fallback
@_output()
@click.pass_obj
def select(options: dict[str, Any], path: str, engine: str, fallback: str | None, output: str) -> None:
    """Say which engine a manifest would run on, and why."""
    from services.cli import deploy, sources

    found = sources.read([path])
    if len(found) != 1:
        raise click.UsageError(f"one manifest is wanted, {path} has {len(found)}")
    _run(
        options,
        lambda session: deploy.select(session, found[0], engine=engine, fallback=fallback or "", output=output),
    )


@cli.command()
@click.option("-f", "--filename", "path", required=True, metavar="FILE|-", help="A manifest, or stdin.")
@click.option("--id", "deployment_id", default="", help="The deployment's id, as for apply.")
@_engine
@_fallback
@_output()
@click.pass_obj
def plan(
    options: dict[str, Any], path: str, deployment_id: str, engine: str, fallback: str | None, output: str
) -> None:
    """Say what an apply would change; touch nothing."""
    from services.cli import history, sources

    found = sources.read([path])
    if len(found) != 1:
        raise click.UsageError(f"one manifest is wanted, {path} has {len(found)}")
    _run(
        options,
        lambda session: history.plan(
            session, found[0], deployment_id=deployment_id, engine=engine, fallback=fallback or "", output=output
        ),
    )


@cli.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen; Ctrl-C ends it.")
@_output()
@click.pass_obj
def events(options: dict[str, Any], name: str, follow: bool, output: str) -> None:
    """Say what happened to a deployment."""
    from services.cli import history

    _run(options, lambda session: history.events(session, name, follow=follow, output=output))


@cli.command()
@click.argument("name")
@_output()
@click.pass_obj
def revisions(options: dict[str, Any], name: str, output: str) -> None:
    """List the contents that a deployment had."""
    from services.cli import history

    _run(options, lambda session: history.revisions(session, name, output=output))


@cli.command()
@click.argument("name")
@click.option("--to", "revision", type=click.IntRange(min=0), default=0, help="This revision; default: the last good.")
@click.option("--wait", type=Span(), default="60s", show_default=True, help="Until it runs.")
@click.pass_obj
def rollback(options: dict[str, Any], name: str, revision: int, wait: float) -> None:
    """Run an earlier revision again."""
    from services.cli import history

    _run(options, lambda session: history.rollback(session, name, revision=revision, wait=wait))


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

    _run(options, lambda session: history.wait(session, name, states=states, timeout=timeout))


@cli.command()
@click.pass_obj
def version(options: dict[str, Any]) -> None:
    """Print beectl's version and the node it speaks to."""
    from services.cli import show

    target = _access(options).target()
    _run(options, lambda session: show.version(session, target))


def _access(options: dict[str, Any]) -> Access:
    from services.cli.session import Access

    return Access(**options)


def _run(options: dict[str, Any], body: Callable[[Session], Coroutine[Any, Any, Any]]) -> Any:
    from services.cli.session import run

    return run(_access(options), body)


def main() -> None:
    """The program: 0 when all is well, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        sys.exit(cli(standalone_mode=False, prog_name="beectl"))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        sys.exit(_told(error))


def _told(error: Exception) -> str:
    """What to say about it; a defect of ours is raised as it is."""
    from services.cli.report import Failure, block
    from services.errors import BeemeshError

    if isinstance(error, Failure):
        return f"error: {error}"
    if isinstance(error, BeemeshError):
        return block(error)
    raise error


if __name__ == "__main__":
    main()
