"""beectl's commands, by topic: a module here adds its commands to `services.cli.group.cli` when it is imported.

What a command does is imported when it is asked for, so that help is quick.
"""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Import every module here: a new command is a new file."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
