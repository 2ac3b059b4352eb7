"""Where settings come from: flag > BEEMESH_* environment > TOML file > default, the same for every service.

A service declares a frozen dataclass; each field is `--field-name`, `BEEMESH_FIELD_NAME` and `field_name` in TOML (at
the top level or in the service's own table). Only `__main__` calls `load`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def load(cls: type[T], *, program: str, argv: Sequence[str], env: Mapping[str, str]) -> T:
    """Read the settings of `program`; exits with 2 and one line when one is wrong, with 0 after `--print-config`."""
    flags = vars(_parser(cls, program).parse_args(argv))
    print_config = flags.pop("print_config")
    config = flags.pop("config") or env.get("BEEMESH_CONFIG")
    values: dict[str, Any] = {}
    try:
        if config:
            values |= _from_file(cls, program, Path(config))
        values |= _from_env(cls, env)
        values |= {name: value for name, value in flags.items() if value is not None}
        settings = msgspec.convert(values, cls, strict=False, dec_hook=_decode)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        sys.stderr.write(f"{program}: settings: {error}\n")
        sys.exit(2)
    if print_config:
        json.dump(msgspec.to_builtins(settings, enc_hook=str), sys.stdout, indent=2)
        sys.stdout.write("\n")
        sys.exit(0)
    return settings


def _decode(kind: type[Any], value: Any) -> Any:
    """What msgspec does not know by itself: paths."""
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise ValueError(f"expected {kind.__name__}, got {value!r}")


def _parser(cls: type[Any], program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=(cls.__doc__ or "").strip().splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--config", help="TOML file (BEEMESH_CONFIG)")
    parser.add_argument("--print-config", action="store_true", help="print the settings in force and stop")
    for field in dataclasses.fields(cls):
        default = repr(_default(field)).replace("%", "%%")
        parser.add_argument(
            "--" + field.name.replace("_", "-"), help=f"(BEEMESH_{field.name.upper()}) default: {default}"
        )
    return parser


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _from_file(cls: type[Any], program: str, path: Path) -> dict[str, Any]:
    """Top-level keys belong to all services, so unknown ones pass; unknown keys in the service's own table do not."""
    names = {field.name for field in dataclasses.fields(cls)}
    data: dict[str, Any] = tomllib.loads(path.read_text())
    service = program.removeprefix("beemesh-")
    own = data.get(service, {})
    if not isinstance(own, dict):
        raise ValueError(f"{path}: {service} is a table of settings, not {own!r}")  # noqa: TRY004 - the file is wrong
    if unknown := sorted(set(own) - names):
        raise ValueError(f"{path}: unknown setting {', '.join(unknown)}; known: {', '.join(sorted(names))}")
    shared = {name: value for name, value in data.items() if name in names}
    return shared | dict(own)


def _from_env(cls: type[Any], env: Mapping[str, str]) -> dict[str, Any]:
    names = {f"BEEMESH_{field.name.upper()}": field.name for field in dataclasses.fields(cls)}
    return {name: env[variable] for variable, name in names.items() if variable in env}


def data_home(env: Mapping[str, str] = os.environ) -> Path:
    """Where data lives unless told otherwise: /var/lib/beemesh, or the XDG state directory when not root."""
    if os.geteuid() == 0:
        return Path("/var/lib/beemesh")
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "beemesh"


def run_home(env: Mapping[str, str] = os.environ) -> Path:
    """Where sockets live unless told otherwise: /run/beemesh, or the XDG runtime directory when not root."""
    if os.geteuid() == 0:
        return Path("/run/beemesh")
    return Path(env.get("XDG_RUNTIME_DIR") or f"/tmp/beemesh-{os.geteuid()}") / "beemesh"  # noqa: S108 - made 0700
