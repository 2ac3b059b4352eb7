"""`beectl`: the program, and how it ends."""

from __future__ import annotations

import os
import sys

import click

from services.cli import commands
from services.cli.group import cli

commands.load()


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
