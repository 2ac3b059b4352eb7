"""`beemesh-node`: reads the settings, claims the directories, and supervises the services until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from services.bound import bound
from services.data_dir import NODE_LOCK, claimed
from services.node import commands
from services.node.notify import notify
from services.node.plan import Layout, Process, choose_engines, plan
from services.node.readiness import Readiness
from services.node.restore import check_whole
from services.node.settings import Settings
from services.node.supervisor import Launch, Running, Supervisor
from services.rpc.process import run
from services.settings import load
from services.telemetry import Log, configure

PROGRAM = "beemesh-node"

log = Log(__name__)


def main() -> None:
    """The program."""
    if sys.argv[1:2] and sys.argv[1] in commands.COMMANDS:
        commands.main(PROGRAM, sys.argv[1:], os.environ)
        return
    settings = load(Settings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    configure(service=PROGRAM, level=settings.log_level)
    launch = functools.partial(_launch, _environment(settings, sys.argv[1:]))
    run(PROGRAM, lambda stop: supervise(settings, launch, stop))


def _environment(settings: Settings, argv: list[str]) -> dict[str, str]:
    """What the services are started with: what was said to the node by flags holds for them too."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    config = parser.parse_known_args(argv)[0].config
    said = {"BEEMESH_LOG_LEVEL": settings.log_level, "BEEMESH_RUN_DIR": str(settings.run_dir.absolute())}
    return {**os.environ, **said, **({"BEEMESH_CONFIG": str(Path(config).absolute())} if config else {})}


async def supervise(settings: Settings, launch: Launch, stop: asyncio.Event) -> None:
    """Run the node until `stop`."""
    run_dir = settings.run_dir.absolute()
    layout = Layout(
        data_dir=settings.data_dir.absolute(), run_dir=run_dir, token_file=settings.token_file or run_dir / "token"
    )
    engines = choose_engines(settings.engines, installed=_installed_engines())
    if not engines and settings.engines:
        log.warning(
            "no_engine", looked_for="podman", hint="apt-get install podman catatonit netavark aardvark-dns iptables"
        )
    with ExitStack() as held:
        for directory in dict.fromkeys((layout.data_dir, layout.run_dir)):
            held.enter_context(claimed(directory, lock_name=NODE_LOCK))
        check_whole(layout.data_dir)
        public = _settled(settings.public, socket.SOCK_STREAM)
        dht_listen = _settled(settings.dht_listen, socket.SOCK_DGRAM)
        processes = plan(layout, engines=engines, public=public, dht_listen=dht_listen)
        async with Readiness() as readiness:
            supervisor = Supervisor(
                processes=processes,
                launch=launch,
                answers=readiness.answers,
                on_ready=lambda: _announce(layout, public, engines),
                lives=readiness.lives,
                stop_seconds=settings.stop_seconds,
                hang_seconds=settings.hang_seconds,
            )
            await supervisor.run(stop)


def _announce(layout: Layout, public: str, engines: tuple[str, ...]) -> None:
    """One line for whoever waits for the node, on stdout; all else goes to stderr."""
    socket_path = layout.socket("orchestrator")
    sys.stdout.write(
        f"READY public={public} socket={socket_path} token_file={layout.token_file} engines={','.join(engines)}\n"
    )
    sys.stdout.flush()
    notify(f"READY=1\nSTATUS=serving on {public} and {socket_path}")


def _installed_engines() -> list[str]:
    """Engines whose backend is on this machine."""
    sockets = [
        Path("/run/podman/podman.sock"),
        Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "podman/podman.sock"),
    ]
    found = ["podman"] if shutil.which("podman") or any(path.is_socket() for path in sockets) else []
    if os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").is_socket():
        found.append("docker")
    if all(find_spec(package) for package in ("wasmtime", "componentize_py")):
        found.append("wasm")
    return found


def _settled(address: str, kind: socket.SocketKind) -> str:
    """The address with port 0 replaced by a free port, so that a restarted service comes back to the same one."""
    host, _, port = address.rpartition(":")
    if port != "0":
        return address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        probe.bind((host.strip("[]"), 0))
        return f"{host}:{probe.getsockname()[1]}"


async def _launch(environment: Mapping[str, str], process: Process) -> Running:
    """Start a service bound to our life, in a session of its own: a terminal's Ctrl-C reaches only the supervisor."""
    return await asyncio.create_subprocess_exec(
        *bound(sys.executable, "-m", process.module, *process.arguments),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
