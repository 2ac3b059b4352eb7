"""The group that every command adds itself to, and what commands share: options, and a session to run in."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from services.cli.session import Access, Session

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_WAIT_MAX = 86_400.0


class Span(click.ParamType[float]):
    """A time span such as 500ms, 60s, 5m, 1h or a bare number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", str(value))
        if match is None or float(match[1]) * _UNITS[match[2]] > _WAIT_MAX:
            self.fail(f"{value!r} is no time span of at most 24h; write 60s, 5m or 0", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def output_option(*extra: str) -> Callable[[Any], Any]:
    """`-o`: how to print; `extra` are forms beside table, json and yaml."""
    choice = click.Choice(["table", "json", "yaml", *extra])
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help="How to print it.")


def wait_option(default: str, help_: str) -> Callable[[Any], Any]:
    """`--wait`: how long to wait for what `help_` says."""
    return click.option("--wait", type=Span(), default=default, show_default=True, help=help_)


engine_option = click.option(
    "--engine", default="", metavar="ENGINE", help="Use this engine (podman, …), whatever the manifest says."
)
fallback_option = click.option(
    "--fallback",
    type=click.Choice(["none", "compatible", "any"]),
    default=None,
    help="Which other engines may be used when the chosen one fails.",
)
env_option = click.option(
    "-e",
    "--env",
    "env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="For every container, and for ${NAME} in a Compose file; without a value: the one it has here.",
)
option_option = click.option(
    "--option", "engine_options", multiple=True, metavar="NAME=VALUE", help="An option of the engine."
)
component_option = click.option(
    "-c",
    "--component",
    default="",
    help="Only this one (container): its name, REPLICA/NAME as `describe` lists it, or its id.",
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


def access(options: dict[str, Any]) -> Access:
    """Where the node is and what opens it, by the group's own options."""
    from services.cli.session import Access

    return Access(**options)


def run(options: dict[str, Any], body: Callable[[Session], Coroutine[Any, Any, Any]]) -> Any:
    """What `body` returns, given a session with the node."""
    from services.cli import session

    return session.run(access(options), body)
