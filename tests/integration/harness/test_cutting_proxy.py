"""The proxy that cuts answers, before a daemon that counts what it was asked."""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.processes import short_directory


class Daemon(socketserver.ThreadingUnixStreamServer):
    """Answers each request with its path, and knows which there were."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    do_GET = do_POST = _answer  # noqa: N815 - the base class looks for these names

    def log_message(self, *args: object) -> None:
        """To nobody."""

    def address_string(self) -> str:
        """A Unix socket's client has none."""
        return ""


class Client(http.client.HTTPConnection):
    """An HTTP client of a Unix socket."""

    def __init__(self, path: Path, *, seconds: float = 10.0) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """To the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(self, method: str, path: str, body: bytes | None = None) -> str:
        """One request on this connection."""
        self.request(method, path, body)
        return self.getresponse().read().decode()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon at a socket of its own."""
    with short_directory() as directory, Daemon(directory / "daemon.sock") as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[CuttingProxy]:
    """The proxy before it."""
    backend = Path(str(daemon.server_address))
    with CuttingProxy(socket=backend.parent / "proxy.sock", backend=backend) as made:
        yield made


def test_requests_pass_one_after_the_other(proxy: CuttingProxy, daemon: Daemon) -> None:
    """Requests on one connection are answered one after the other, with bodies and without."""
    with closing(Client(proxy.socket)) as client:
        assert [client.ask("GET", "/a"), client.ask("POST", "/b", b"x" * 200_000), client.ask("GET", "/c")] == [
            "/a",
            "/b",
            "/c",
        ]
    assert daemon.asked == ["GET /a", "POST /b", "GET /c"]


def test_an_answer_is_cut_after_the_daemon_gave_it_and_only_that_one(proxy: CuttingProxy, daemon: Daemon) -> None:
    """The daemon has done what it was asked, its client sees the connection end, and the next request is answered."""
    cut = proxy.cut("POST", "/containers/[0-9]+/start")
    with closing(Client(proxy.socket)) as client:
        assert client.ask("GET", "/containers/7/start") == "/containers/7/start"
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            client.ask("POST", "/v1.41/containers/7/start")
    assert cut.wait(10) == 200
    assert daemon.asked[-1] == "POST /v1.41/containers/7/start"
    with closing(Client(proxy.socket)) as client:
        assert client.ask("POST", "/containers/7/start") == "/containers/7/start"


def test_after_a_cut_it_may_refuse_all(proxy: CuttingProxy, daemon: Daemon) -> None:
    """Refusing from the cut on leaves nobody a moment to look; told to forward, it is there again."""
    with closing(Client(proxy.socket)) as other, closing(Client(proxy.socket)) as client:
        assert other.ask("GET", "/a") == "/a"
        cut = proxy.cut("POST", "/start", then_refuse=True)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            client.ask("POST", "/start")
        cut.wait(10)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
            other.ask("GET", "/b")
    with closing(Client(proxy.socket)) as late, pytest.raises(ConnectionRefusedError):
        late.ask("GET", "/c")
    assert daemon.asked == ["GET /a", "POST /start"]
    proxy.forward()
    with closing(Client(proxy.socket)) as again:
        assert again.ask("GET", "/d") == "/d"


def test_hanging_it_takes_a_connection_and_answers_nothing(proxy: CuttingProxy, daemon: Daemon) -> None:
    """What was asked while it hung reaches the daemon when it forwards again."""
    proxy.hang()
    with closing(Client(proxy.socket, seconds=0.2)) as client, pytest.raises(TimeoutError):
        client.ask("GET", "/a")
    assert daemon.asked == []
    proxy.forward()
    with closing(Client(proxy.socket)) as client:
        assert client.ask("GET", "/b") == "/b"
