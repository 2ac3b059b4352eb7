"""Running a command where a deployment runs."""

from __future__ import annotations

import sys
from typing import Any

import click

from services.cli.group import cli, component_option, run


@cli.command("exec")
@click.argument("name")
@component_option
@click.option("-i", "--stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal: this one, with -i.")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENT]...")
@click.pass_obj
def execute(options: dict[str, Any], name: str, component: str, stdin: bool, tty: bool, words: tuple[str, ...]) -> None:
    """Run a command in a component, and end with its exit code.

    `beectl exec -it NAME -- sh` is a shell. No shell is added to what is given. 127: there is no such program, 126: it
    cannot be run. The command is killed when beectl ends before it.
    """
    from services.cli.execute import Command
    from services.cli.execute import execute as to_its_end
    from services.cli.terminal import Terminal

    terminal = Terminal()
    if stdin and tty and not terminal.is_there:
        raise click.UsageError("-i with -t needs a terminal as standard input; leave out -t to pass on what is piped")
    command = Command(deployment=name, component=component, words=words, stdin=stdin, tty=tty)
    sys.exit(run(options, lambda session: to_its_end(session, command, terminal)))
