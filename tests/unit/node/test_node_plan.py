"""What a node is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.errors import InvalidArgument
from services.node.plan import Layout, Process, Stage, choose_engines, plan

LAYOUT = Layout(data_dir=Path("/data"), run_dir=Path("/run/x"), token_file=Path("/run/x/token"))


def flags(process: Process) -> dict[str, str]:
    """The arguments by flag."""
    return dict(zip(process.arguments[::2], process.arguments[1::2], strict=True))


def planned(*engines: str) -> dict[str, Process]:
    """The plan by service name."""
    processes = plan(LAYOUT, engines=engines, public="127.0.0.1:7443", dht_listen="127.0.0.1:7445")
    return {process.name: process for process in processes}


def test_auto_takes_what_is_installed() -> None:
    """Engines `auto` are those whose backend is installed."""
    assert choose_engines("auto", installed=["podman"]) == ("podman",)


def test_auto_never_takes_mock() -> None:
    """The mock engine runs only when it is named, even where it could."""
    assert choose_engines("auto", installed=["mock"]) == ()


def test_named_engines_need_no_backend() -> None:
    """An engine that is named runs whether or not its backend is there: that is what its health says."""
    assert choose_engines(" podman , mock,", installed=[]) == ("mock", "podman")


def test_no_engine_can_be_asked_for() -> None:
    """An empty list is a node without engines."""
    assert choose_engines("", installed=["podman"]) == ()


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    """An engine that does not exist is refused, and the message lists those that do."""
    with pytest.raises(InvalidArgument, match="unknown engine dokcer; known: docker, mock, podman, wasm"):
        choose_engines("podman,dokcer", installed=[])


def test_a_node_is_one_process_per_service() -> None:
    """A node is a registry, a provider, an orchestrator, and one process per engine."""
    modules = {name: process.module for name, process in planned("mock", "podman").items()}
    assert modules == {
        "registry": "services.registry",
        "provider": "services.provider",
        "engine-mock": "services.engines.mock",
        "engine-podman": "services.engines.podman",
        "orchestrator": "services.orchestrator",
    }


def test_each_service_has_its_own_data_directory() -> None:
    """No two services share a directory."""
    directories = [flags(process)["--data-dir"] for process in planned("mock", "podman").values()]
    assert len(set(directories)) == len(directories) == 5


def test_services_are_told_where_the_others_listen() -> None:
    """The sockets that services are pointed at are the ones that the others listen on."""
    services = planned("podman")
    for name in ("engine-podman", "orchestrator"):
        assert flags(services[name])["--registry"] == flags(services["registry"])["--listen"]
        assert flags(services[name])["--provider"] == flags(services["provider"])["--listen"]


def test_an_engine_advertises_where_it_listens() -> None:
    """On one machine the address an engine is called at is the one it listens on."""
    engine = flags(planned("podman")["engine-podman"])
    assert engine["--advertise"] == engine["--listen"] == "unix:/run/x/engine-podman.sock"


def test_only_the_orchestrator_has_a_public_port() -> None:
    """The public port and its token belong to the orchestrator alone."""
    public = {name: flags(process).get("--public") for name, process in planned("mock").items()}
    assert public == {"registry": None, "provider": None, "engine-mock": None, "orchestrator": "127.0.0.1:7443"}


def test_who_is_needed_stops_last() -> None:
    """The orchestrator stops first, then engines, then the provider, and the registry last."""
    services = planned("mock", "podman").values()
    by_stage = [process.name for process in sorted(services, key=lambda process: process.stage, reverse=True)]
    assert by_stage == ["orchestrator", "engine-mock", "engine-podman", "provider", "registry"]
    assert Stage.ORCHESTRATOR > Stage.ENGINE > Stage.PROVIDER > Stage.REGISTRY
