"""Probe handlers against real servers on loopback: what counts as success, what as failure, and that all is bounded."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.engines.probe_handlers import Handlers
from services.engines.probes import Exec, Finding, Grpc, HttpGet, TcpSocket
from services.errors import Unavailable

LOOPBACK = "127.0.0.1"
CLOSED = 1
"""A port on which nothing listens."""
OK = Finding(ok=True)

Answer = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Given the request's head, writes what it likes."""


class Pods:
    """Containers that all live on loopback, each port where the map says, else on the same port."""

    def __init__(self, *, ports: dict[int, int] | None = None) -> None:
        self.ports = ports or {}
        self.result: tuple[int, str] = (0, "")
        self.error: Exception | None = None
        self.ran: list[tuple[str, Sequence[str], float]] = []

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """The result that a test set."""
        self.ran.append((component_id, command, timeout))
        if self.error is not None:
            raise self.error
        return self.result

    async def dial(self, component_id: str, port: int) -> tuple[str, int]:
        """On loopback."""
        if self.error is not None:
            raise self.error
        return LOOPBACK, self.ports.get(port, port)


class Server:
    """A server that answers each connection as it is told, and keeps the heads of the requests."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heads: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            await self._answer(head, reader, writer)
        except (OSError, EOFError):
            pass  # the prober left
        finally:
            writer.transport.abort()

    @property
    def targets(self) -> list[str]:
        """The request targets that were asked for."""
        return [head.split(" ")[1] for head in self.heads]


@asynccontextmanager
async def serving(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on a free port of loopback."""
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, LOOPBACK, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


def says(text: str | bytes) -> Answer:
    """Answers with these bytes."""
    data = text.encode("latin-1") if isinstance(text, str) else text

    async def answer(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof() if writer.can_write_eof() else None
        await reader.read()

    return answer


def status(line: str, *, headers: str = "", body: str = "") -> Answer:
    """Answers with this status."""
    return says(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}")


def by_path(**answers: Answer) -> Answer:
    """Answers by the path's first word; `root` is for /."""

    async def answer(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1].strip("/").partition("?")[0] or "root"
        await answers[path](head, reader, writer)

    return answer


async def silence(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the prober leaves."""
    await reader.read()


async def get(port: int, *, timeout: float = 5.0, pods: Pods | None = None, **fields: object) -> Finding:
    """GET from a container's port."""
    handler = HttpGet(port=port, **fields)  # type: ignore[arg-type]  # the tests' own keywords
    return await Handlers(pods or Pods()).check("web", handler, timeout=timeout)


# httpGet


@pytest.mark.parametrize("line", ["200 OK", "204 No Content", "399 Odd", "304 Not Modified"])
async def test_a_status_from_200_to_399_is_success(line: str) -> None:
    """Also a redirection that leads nowhere."""
    async with serving(status(line)) as server:
        assert await get(server.port) == OK


@pytest.mark.parametrize("line", ["400 Bad Request", "404 Not Found", "500 Internal Server Error", "503 Busy"])
async def test_any_other_status_is_failure(line: str) -> None:
    """The message names it."""
    async with serving(status(line, body="oh dear")) as server:
        found = await get(server.port)
    assert found == Finding(ok=False, message=f"HTTP probe failed with statuscode: {line[:3]}")


async def test_the_request_is_what_the_manifest_says() -> None:
    """Path, query and headers; a kubelet's defaults for what it leaves out."""
    async with serving(status("200 OK")) as server:
        headers = (("X-Probe", "1"), ("X-Probe", "2"), ("Content-Length", "5"), ("X-Name", "Jörg"))
        assert await get(server.port, path="/healthz?full=1&q=a%20b", headers=headers) == OK
    head = server.heads[0]
    assert head.startswith("GET /healthz?full=1&q=a%20b HTTP/1.1\r\n")
    lines = head.lower().split("\r\n")
    assert f"host: {LOOPBACK}:{server.port}" in lines
    assert "user-agent: kube-probe/beemesh" in lines
    assert "accept: */*" in lines
    assert "connection: close" in lines
    assert [line for line in lines if line.startswith("x-probe")] == ["x-probe: 1", "x-probe: 2"]
    assert not any(line.startswith("content-length") for line in lines)


async def test_the_manifests_headers_beat_the_defaults() -> None:
    """An empty Accept means none at all."""
    async with serving(status("200 OK")) as server:
        headers = (("host", "shop.example"), ("user-agent", "curl"), ("Accept", ""))
        assert await get(server.port, headers=headers) == OK
    lines = server.heads[0].lower().split("\r\n")
    assert [line for line in lines if line.startswith(("host", "user-agent", "accept"))] == [
        "host: shop.example",
        "user-agent: curl",
    ]


@pytest.mark.parametrize(
    ("path", "target"),
    [("healthz", "/healthz"), ("/a b/ü", "/a%20b/%C3%BC"), ("/x#top", "/x"), ("//x", "//x"), ("/%2e%2E", "/%2e%2E")],
)
async def test_a_path_is_sent_as_a_target_that_servers_understand(path: str, target: str) -> None:
    """Absolute and escaped; what is escaped already stays."""
    async with serving(status("200 OK")) as server:
        assert await get(server.port, path=path) == OK
    assert server.targets == [target]


async def test_a_header_that_could_smuggle_another_is_not_sent() -> None:
    """The probe fails, and says that the header is at fault."""
    async with serving(status("200 OK")) as server:
        found = await get(server.port, headers=(("X-A", "1\r\nX-B: 2"),))
    assert found.ok is False
    assert "header" in found.message
    assert server.heads == []


async def test_nothing_listening_is_failure() -> None:
    """Of every kind of question; the message says where and why."""
    for handler in (HttpGet(port=CLOSED), TcpSocket(port=CLOSED)):
        found = await Handlers(Pods()).check("web", handler, timeout=5)
        assert found == Finding(ok=False, message=f"{LOOPBACK}:{CLOSED}: Connection refused")
    found = await Handlers(Pods()).check("web", Grpc(port=CLOSED), timeout=5)
    assert found.ok is False
    assert found.message.startswith("gRPC health check failed: UNAVAILABLE")


async def test_a_host_that_does_not_exist_is_failure() -> None:
    """Also one that cannot be a host name."""
    for host in ("no-such-host.invalid", "a" * 70 + ".example"):
        assert (await get(80, host=host)).ok is False


async def test_a_server_that_does_not_answer_is_failure_at_the_timeout() -> None:
    """And not much later."""
    async with serving(silence) as server:
        begun = time.monotonic()
        assert await get(server.port, timeout=0.2) == Finding(ok=False, message="no answer within 0.2 s")
    assert 0.15 < time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "220 mail ready\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        "HTTP/1.1 200 OK\r\nX-Long: " + "x" * 100_000 + "\r\n\r\n",
    ],
    ids=["nothing", "smtp", "no-status", "bad-length", "bad-header", "tls", "endless-header"],
)
async def test_what_is_no_http_is_failure(answer: str | bytes) -> None:
    """Whatever the server says, what is read of it is bounded."""
    async with serving(says(answer)) as server:
        found = await get(server.port)
    assert found.ok is False
    assert 0 < len(found.message) < 500


async def test_interim_answers_are_passed_over() -> None:
    """The final status counts, if it comes before too much else."""
    async with serving(says("HTTP/1.1 100 Continue\r\n\r\n" * 10_000)) as server:
        assert await get(server.port) == Finding(ok=False, message="no status within 65536 bytes of answer")
    async with serving(says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")) as server:
        assert (await get(server.port)).ok is False


async def test_a_huge_body_is_not_read_to_its_end() -> None:
    """The status is the answer; the server gets rid of a small part of it."""
    sent = 0

    async def pour(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with serving(pour) as server:
        begun = time.monotonic()
        assert await get(server.port) == OK
    assert time.monotonic() - begun < 3
    assert sent < 64 << 20


@pytest.mark.parametrize("ends", [True, False])
async def test_a_body_that_does_not_come_is_not_held_against_the_status(ends: bool) -> None:
    """Whether it breaks off or stalls, also beyond the timeout: the container has answered in time."""

    async def half(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.85)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        if not ends:
            await reader.read()

    async with serving(half) as server:
        begun = time.monotonic()
        assert await get(server.port, timeout=1) == OK
    assert time.monotonic() - begun < 2


async def test_the_body_is_taken_so_that_the_server_can_finish() -> None:
    """A server whose body comes in a packet of its own sees no broken connection."""
    finished = asyncio.Event()
    left_early: list[bool] = []

    async def later(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        left_early.append(reader.at_eof())
        writer.write(b"x" * 20000)
        await writer.drain()
        assert await reader.read() == b""
        finished.set()

    async with serving(later) as server:
        assert await get(server.port) == OK
        async with asyncio.timeout(2):
            await finished.wait()
    assert left_early == [False]


@pytest.mark.parametrize("line", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_to_the_same_host_are_followed(line: str) -> None:
    """Relative and absolute ones; the last answer counts."""
    async with serving(
        by_path(
            root=status(line, headers="Location: a?b=1\r\n"),
            a=lambda head, reader, writer: status(
                line, headers=f"Location: http://{LOOPBACK}:{server.port}/end#top\r\n"
            )(head, reader, writer),
            end=status("500 No"),
        )
    ) as server:
        found = await get(server.port, headers=(("Host", "shop.example"),))
    assert found == Finding(ok=False, message="HTTP probe failed with statuscode: 500")
    assert server.targets == ["/", "/a?b=1", "/end"]
    hosts = [line for head in server.heads for line in head.split("\r\n") if line.lower().startswith("host:")]
    assert [host.partition(": ")[2] for host in hosts] == ["shop.example"] * 2 + [f"{LOOPBACK}:{server.port}"]


async def test_a_redirect_to_another_host_is_success_and_is_not_followed() -> None:
    """The message says so."""
    async with serving(status("302 Found", headers="Location: http://login.example/\r\n")) as server:
        found = await get(server.port)
    assert found == Finding(ok=True, message="a redirect to another host was not followed: login.example")


async def test_a_redirect_to_another_port_is_dialled_anew() -> None:
    """Ports in URLs are the container's; where they are reached is the engine's affair."""
    async with (
        serving(status("200 OK")) as second,
        serving(status("302 Found", headers=f"Location: http://{LOOPBACK}:8081/there\r\n")) as first,
    ):
        assert await get(8080, pods=Pods(ports={8080: first.port, 8081: second.port})) == OK
    assert first.heads[0].split("\r\n")[1] == f"Host: {LOOPBACK}:8080"
    assert second.targets == ["/there"]


async def test_redirects_end_after_ten_requests() -> None:
    """A loop is a failure."""
    async with serving(status("302 Found", headers="Location: /\r\n")) as server:
        assert await get(server.port) == Finding(ok=False, message="stopped after 10 redirects")
    assert len(server.heads) == 10


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://127.0.0.1:99999/", "gopher://127.0.0.1/", "http://a\x00b/"]
)
async def test_a_redirect_to_nonsense_is_no_defect_of_ours(location: str) -> None:
    """It is the container's failure, or another host."""
    async with serving(status("302 Found", headers=f"Location: {location}\r\n")) as server:
        assert (await get(server.port)).ok is not None


async def test_a_redirect_without_location_is_success() -> None:
    """Its status is below 400."""
    async with serving(status("302 Found")) as server:
        assert await get(server.port) == OK


@pytest.fixture
def weak_tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that is self-signed, expired and for another name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere.example")])
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(past)
        .not_valid_after(past + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "tls.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_https_does_not_verify_the_certificate(weak_tls: ssl.SSLContext) -> None:
    """As a kubelet does not; it is a question of health, not of trust."""
    async with serving(status("200 OK"), tls=weak_tls) as server:
        assert await get(server.port, scheme="HTTPS") == OK
        assert (await get(server.port, scheme="HTTP")).ok is False
    async with serving(status("200 OK")) as plain:
        assert (await get(plain.port, scheme="HTTPS", timeout=0.3)).ok is False


# tcpSocket


async def test_a_port_that_accepts_is_success() -> None:
    """Nothing is sent, and the connection is closed at once."""
    closed = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        writer.transport.abort()
        closed.set()

    listener = await asyncio.start_server(accept, LOOPBACK, 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert await Handlers(Pods(ports={80: port})).check("web", TcpSocket(port=80), timeout=5) == OK
        async with asyncio.timeout(2):
            await closed.wait()


async def test_a_handler_with_a_host_is_not_dialled_through_the_engine() -> None:
    """It names the place itself."""
    pods = Pods()
    pods.error = Unavailable("not asked", reason="BACKEND_UNREACHABLE")
    async with serving(status("200 OK")) as server:
        assert await Handlers(pods).check("web", TcpSocket(port=server.port, host=LOOPBACK), timeout=5) == OK
        assert await get(server.port, host=LOOPBACK, pods=pods) == OK


async def test_an_engine_that_cannot_say_the_address_says_nothing_about_the_container() -> None:
    """Neither success nor failure."""
    pods = Pods()
    pods.error = Unavailable("podman does not answer", reason="BACKEND_UNREACHABLE")
    for handler in (HttpGet(port=80), TcpSocket(port=80), Grpc(port=80), Exec(command=("true",))):
        found = await Handlers(pods).check("web", handler, timeout=5)
        assert found == Finding(ok=None, message="podman does not answer")


# grpc


@asynccontextmanager
async def health_service() -> AsyncIterator[tuple[int, health.aio.HealthServicer]]:
    """A gRPC server with the health service, on a free port."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        yield port, servicer
    finally:
        await server.stop(0)


async def test_a_grpc_service_that_serves_is_success() -> None:
    """The one that the probe names, or the whole server."""
    async with health_service() as (port, servicer):
        await servicer.set("shop", health_pb2.HealthCheckResponse.NOT_SERVING)
        handlers = Handlers(Pods())
        assert await handlers.check("web", Grpc(port=port), timeout=5) == OK
        assert await handlers.check("web", Grpc(port=port, service="shop"), timeout=5) == Finding(
            ok=False, message="service is NOT_SERVING"
        )
        found = await handlers.check("web", Grpc(port=port, service="unheard-of"), timeout=5)
        assert found.ok is False
        assert "NOT_FOUND" in found.message


async def test_a_grpc_server_without_the_health_service_is_failure() -> None:
    """The message tells it from a service that is ill."""
    server = grpc.aio.server()
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        found = await Handlers(Pods()).check("web", Grpc(port=port), timeout=5)
    finally:
        await server.stop(0)
    assert found.ok is False
    assert "UNIMPLEMENTED" in found.message


async def test_a_grpc_port_that_does_not_answer_is_failure_at_the_timeout() -> None:
    """Nor one that speaks something else."""
    async with serving(silence) as server:
        begun = time.monotonic()
        found = await Handlers(Pods()).check("web", Grpc(port=server.port), timeout=0.3)
        assert found.ok is False
        assert time.monotonic() - begun < 2
    async with serving(says("HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        assert (await Handlers(Pods()).check("web", Grpc(port=server.port), timeout=1)).ok is False


# exec


async def test_a_command_that_exits_0_is_success_and_any_other_is_failure() -> None:
    """The message has the code and what it said."""
    pods = Pods()
    assert await Handlers(pods).check("web", Exec(command=("cat", "/ok")), timeout=3) == OK
    pods.result = (1, "cat: /ok: No such file\n")
    assert await Handlers(pods).check("web", Exec(command=("cat", "/ok")), timeout=3) == Finding(
        ok=False, message="exit code 1: cat: /ok: No such file"
    )
    assert pods.ran == [("web", ("cat", "/ok"), 3)] * 2
