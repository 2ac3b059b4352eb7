"""How services serve and call, over real sockets."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from services.errors import (
    BeemeshError,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from services.rpc.client import connect
from services.rpc.deadline import budget
from services.rpc.errors import from_rpc_error
from services.rpc.server import Server, Tls
from services.rpc.watch import Feed

ENGINE = "beemesh.engine.v1.EngineService"
GET, RESTART, WATCH = f"/{ENGINE}/GetWorkload", f"/{ENGINE}/RestartWorkload", f"/{ENGINE}/WatchWorkloads"
BAD_UTF8 = b"\x0a\x02\xff\xfe"

Handler = Callable[[Any, Any], Any]


class Handlers(grpc.GenericRpcHandler):
    """Serves plain functions on raw bytes by method path."""

    def __init__(self, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._methods.get(str(handler_call_details.method))


def unary(handler: Handler, decode: Any = None) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of one request and one response."""
    return grpc.unary_unary_rpc_method_handler(handler, request_deserializer=decode)


def streaming(handler: Handler) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of one request and many responses."""
    return grpc.unary_stream_rpc_method_handler(handler)


@asynccontextmanager
async def serving(address: str, **options: Any) -> AsyncIterator[Server]:
    """Serve the methods given as `methods` on one address."""
    methods = options.pop("methods", {})
    server = Server(addresses=[address], drain_seconds=options.pop("drain_seconds", 0.5), **options)
    server.add_generic(Handlers(methods), [ENGINE])
    async with server:
        yield server


def calling(target: str, **options: Any) -> Any:
    """A channel of ours, for raw bytes."""
    return connect(target, **options)


def calling_with_defaults(target: str) -> Any:
    """A channel as any client would make it."""
    return grpc.aio.insecure_channel(target)


def at(tmp_path: Path) -> str:
    """A socket of the test's own."""
    return f"unix:{tmp_path}/s.sock"


async def ended(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The status that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def refused(call: Awaitable[object]) -> BeemeshError:
    """The same as a domain error."""
    return from_rpc_error(await ended(call))


async def echo(request: bytes, context: Any) -> bytes:
    """Gives back what it got."""
    return request


async def test_a_domain_error_arrives_whole(tmp_path: Path) -> None:
    """What a handler raises reaches the client with code, reason, metadata, field, line and column."""
    violation = FieldViolation(
        field_path="spec.image", message="unknown field", reason="UNKNOWN_FIELD", line=3, column=5
    )

    async def handler(request: bytes, context: Any) -> bytes:
        raise InvalidArgument("bad manifest", reason="MANIFEST_INVALID", metadata={"id": "web"}, violations=[violation])

    async with serving(at(tmp_path), methods={GET: unary(handler)}), calling(at(tmp_path)) as channel:
        error = await refused(channel.unary_unary(GET)(b"", timeout=5))
    assert isinstance(error, InvalidArgument)
    assert (error.message, error.reason, error.metadata) == ("bad manifest", "MANIFEST_INVALID", {"id": "web"})
    assert error.violations == (violation,)


async def test_an_error_too_large_for_the_trailers_is_cut_and_still_readable(tmp_path: Path) -> None:
    """A client with default limits reads code and reason of an error with ten thousand findings in wide characters."""
    violations = [FieldViolation(field_path="spec.🐝" * 50, message="🐝" * 500, line=n) for n in range(1, 10_000)]

    async def handler(request: bytes, context: Any) -> bytes:
        raise InvalidArgument(
            "🐝" * 5000, reason="MANIFEST_INVALID", metadata={"k": "🐝" * 5000}, violations=violations
        )

    async with (
        serving(at(tmp_path), methods={GET: unary(handler)}),
        calling_with_defaults(at(tmp_path)) as channel,
    ):
        for _ in range(20):
            error = await refused(channel.unary_unary(GET)(b"", timeout=5))
            assert (type(error), error.reason) == (InvalidArgument, "MANIFEST_INVALID")
            assert error.violations[-1].message.startswith("and 999")


async def test_an_unexpected_error_says_nothing_of_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The text of an uncaught exception goes to the log and not to the client, from unary and streaming handlers."""

    async def handler(request: bytes, context: Any) -> bytes:
        raise RuntimeError("the password is hunter2")

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("the password is hunter2")

    methods = {GET: unary(handler), WATCH: streaming(stream)}
    async with serving(at(tmp_path), methods=methods), calling(at(tmp_path)) as channel:
        watch = channel.unary_stream(WATCH)(b"", timeout=5)
        assert await watch.read() == b"one"
        for status in (await ended(channel.unary_unary(GET)(b"", timeout=5)), await ended(watch.read())):
            error = from_rpc_error(status)
            assert isinstance(error, Internal)
            assert error.reason == "INTERNAL"
            assert "hunter2" not in f"{status.details()}{status.debug_error_string()}{status.trailing_metadata()}"
    assert caplog.text.count("RuntimeError: the password is hunter2") == 2


async def test_an_error_text_with_stray_bytes_of_a_file_name_arrives(tmp_path: Path) -> None:
    """A lone surrogate in a message is no reason to lose the message."""

    async def handler(request: bytes, context: Any) -> bytes:
        name = os.fsdecode(b"/data/\xff.yaml")
        raise NotFound(f"{name} is not there", reason="GONE", metadata={"path": name})

    async with serving(at(tmp_path), methods={GET: unary(handler)}), calling(at(tmp_path)) as channel:
        error = await refused(channel.unary_unary(GET)(b"", timeout=5))
    assert (error.reason, error.message) == ("GONE", "/data/?.yaml is not there")


async def test_an_error_raised_in_a_task_group_is_that_error(tmp_path: Path) -> None:
    """A domain error, a peer's status or an abort inside of a handler's task group reaches the client as itself."""

    async def fail(error: Exception) -> None:
        raise error

    async def handler(request: bytes, context: Any) -> bytes:
        async with asyncio.TaskGroup() as tasks:
            if request == b"domain":
                tasks.create_task(fail(NotFound("no", reason="GONE")))
            elif request == b"abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "lost")
            else:
                tasks.create_task(fail(NotFound("no", reason="GONE")))
                await fail(RuntimeError("hunter2"))
        return b""

    async with serving(at(tmp_path), methods={GET: unary(handler)}), calling(at(tmp_path)) as channel:
        call = channel.unary_unary(GET)
        assert (await refused(call(b"domain", timeout=5))).reason == "GONE"
        status = await ended(call(b"abort", timeout=5))
        assert (status.code(), status.details()) == (grpc.StatusCode.DATA_LOSS, "lost")
        assert isinstance(await refused(call(b"both", timeout=5)), Internal)


async def test_a_request_that_cannot_be_decoded_is_an_invalid_argument(tmp_path: Path) -> None:
    """Bad UTF-8 and broken frames end in INVALID_ARGUMENT REQUEST_UNDECODABLE before any handler, streamed ones too."""
    reached: list[object] = []

    async def handler(request: Any, context: Any) -> bytes:
        reached.append(request)
        return b""

    async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            reached.append(request)
            yield b"ok"

    decode = engine_pb.GetWorkloadRequest.FromString
    methods = {GET: unary(handler, decode), WATCH: grpc.stream_stream_rpc_method_handler(stream, decode)}
    async with serving(at(tmp_path), methods=methods), calling(at(tmp_path)) as channel:
        for raw in (BAD_UTF8, b"\x0a", b"\xff" * 9):
            error = await refused(channel.unary_unary(GET)(raw, timeout=5))
            assert (type(error), error.reason) == (InvalidArgument, "REQUEST_UNDECODABLE")
        assert reached == []
        good = engine_pb.GetWorkloadRequest(workload_id="w")
        call = channel.stream_stream(WATCH)(iter([good.SerializeToString(), BAD_UTF8]), timeout=5)
        assert await call.read() == b"ok"
        assert (await refused(call.read())).reason == "REQUEST_UNDECODABLE"
        assert reached == [good]


async def test_reflection_lists_and_describes_in_both_versions(tmp_path: Path) -> None:
    """v1 and v1alpha both list every service, and give the file of each and of the error details."""
    async with serving(at(tmp_path)), calling(at(tmp_path)) as channel:
        for version in ("v1", "v1alpha"):
            call = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )(timeout=5)
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            names = {item.name for item in (await call.read()).list_services_response.service}
            assert names == {
                ENGINE,
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            for symbol in (
                ENGINE,
                "grpc.reflection.v1.ServerReflection",
                "grpc.health.v1.Health",
                "google.rpc.ErrorInfo",
                "google.rpc.BadRequest",
            ):
                await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
                files = (await call.read()).file_descriptor_response.file_descriptor_proto
                packages = {FileDescriptorProto.FromString(file).package for file in files}
                assert symbol.rpartition(".")[0] in packages
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{ENGINE}.GetWorkload"))
            assert (await call.read()).HasField("file_descriptor_response"), "a method can be described by its name"
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{ENGINE}.Nothing"))
            assert (await call.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK


async def test_health_knows_the_server_its_services_and_its_readiness(tmp_path: Path) -> None:
    """Server, liveness, readiness and services serve; what is set not to serve does not; other names are NOT_FOUND."""
    status = health_pb2.HealthCheckResponse
    async with serving(at(tmp_path)) as server, calling(at(tmp_path)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def check(name: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            return int(answer.status)

        for name in ("", "liveness", "readiness", ENGINE):
            assert await check(name) == status.SERVING
        await server.set_health("readiness", serving=False)
        await server.set_health("backend", serving=False)
        assert await check("readiness") == await check("backend") == status.NOT_SERVING
        assert await check("liveness") == status.SERVING
        assert (await ended(check("nobody"))).code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(tmp_path: Path) -> None:
    """A watcher of a health name is told its status at once, and every change."""
    status = health_pb2.HealthCheckResponse
    async with serving(at(tmp_path)) as server, calling(at(tmp_path)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=5)
        assert (await call.read()).status == status.SERVING
        await server.set_health("readiness", serving=False)
        assert (await call.read()).status == status.NOT_SERVING
        call.cancel()


async def test_a_deadline_bounds_the_calls_made_for_the_request(tmp_path: Path) -> None:
    """A handler's budget is what its caller has left, in unary and streaming handlers; without one it is its own."""

    async def handler(request: bytes, context: Any) -> bytes:
        return str(budget(100.0)).encode()

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield str(budget(100.0)).encode()

    methods = {GET: unary(handler), WATCH: streaming(stream)}
    async with serving(at(tmp_path), methods=methods), calling(at(tmp_path)) as channel:
        assert 2.0 < float(await channel.unary_unary(GET)(b"", timeout=3.0)) < 3.1
        assert float(await channel.unary_unary(GET)(b"")) == 100.0
        watch = channel.unary_stream(WATCH)(b"", timeout=3.0)
        assert 2.0 < float(await watch.read()) < 3.1


async def test_a_token_is_asked_of_tcp_callers_only(tmp_path: Path) -> None:
    """On TCP each call but health needs the token; a Unix socket is guarded by its mode and needs none."""
    server = Server(addresses=["127.0.0.1:0", at(tmp_path)], token="s3cret", drain_seconds=0)
    server.add_generic(Handlers({GET: unary(echo)}), [ENGINE])
    async with server, calling(f"127.0.0.1:{server.ports['127.0.0.1:0']}") as tcp, calling(at(tmp_path)) as unix:
        call = tcp.unary_unary(GET)
        for metadata, reason in (
            ((), "TOKEN_REQUIRED"),
            ((("authorization", "Bearer wrong"),), "TOKEN_WRONG"),
            ((("authorization", "s3cret"),), "TOKEN_WRONG"),
            ((("authorization", "Bearer s3cret2"),), "TOKEN_WRONG"),
        ):
            error = await refused(call(b"", timeout=5, metadata=metadata))
            assert (type(error), error.reason) == (Unauthenticated, reason)
            assert "s3cret" not in error.message
        assert await call(b"hi", timeout=5, metadata=(("authorization", "Bearer s3cret"),)) == b"hi"
        reflection = tcp.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        assert (await refused(anext(aiter(reflection(iter([b""]), timeout=5))))).reason == "TOKEN_REQUIRED"
        health: Any = health_pb2_grpc.HealthStub(tcp)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1
        assert await unix.unary_unary(GET)(b"hi", timeout=5) == b"hi"


async def test_an_open_address_is_served_with_tls_and_token(tmp_path: Path) -> None:
    """With a certificate and a token any address may be bound; who trusts the certificate and has the token gets in."""
    tls = certificate(tmp_path)
    with pytest.raises(FailedPrecondition):
        Server(addresses=["0.0.0.0:0"], tls=tls)
    server = Server(addresses=["0.0.0.0:0"], tls=tls, token="t", drain_seconds=0)
    server.add_generic(Handlers({GET: unary(echo)}), [ENGINE])
    async with server:
        target = f"127.0.0.1:{server.ports['0.0.0.0:0']}"
        async with calling(target, root_certificate=tls.certificate) as channel:
            call = channel.unary_unary(GET)
            assert await call(b"hi", timeout=5, metadata=(("authorization", "Bearer t"),)) == b"hi"
            assert (await refused(call(b"hi", timeout=5))).reason == "TOKEN_REQUIRED"
        async with calling(target) as plain:
            assert isinstance(await refused(plain.unary_unary(GET)(b"", timeout=2)), Unavailable)


async def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    """The socket has mode 0600, its new directory 0700."""
    path = tmp_path / "run" / "s.sock"
    async with serving(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_second_server_cannot_take_a_socket_but_inherits_a_dead_ones(tmp_path: Path) -> None:
    """A socket that is served is refused to another server, which leaves it working; a stale file is replaced."""
    async with serving(at(tmp_path), methods={GET: unary(echo)}), calling(at(tmp_path)) as channel:
        with pytest.raises(Unavailable) as caught:
            async with serving(at(tmp_path)):
                pass
        assert caught.value.reason == "ADDRESS_IN_USE"
        assert await channel.unary_unary(GET)(b"hi", timeout=5) == b"hi"
    stale = socket.socket(socket.AF_UNIX)
    (tmp_path / "s.sock").unlink(missing_ok=True)
    stale.bind(str(tmp_path / "s.sock"))
    stale.close()
    async with serving(at(tmp_path), methods={GET: unary(echo)}), calling(at(tmp_path)) as channel:
        assert await channel.unary_unary(GET)(b"hi", timeout=5) == b"hi"


async def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """A file where the socket should be is left alone and the server refuses to start."""
    (tmp_path / "s.sock").write_text("precious")
    with pytest.raises(FailedPrecondition) as caught:
        async with serving(at(tmp_path)):
            pass
    assert caught.value.reason == "SOCKET_PATH_TAKEN"
    assert (tmp_path / "s.sock").read_text() == "precious"


async def test_a_socket_path_too_long_is_refused_in_words(tmp_path: Path) -> None:
    """A path that the kernel would cut is refused with what to do."""
    with pytest.raises(FailedPrecondition) as caught:
        async with serving(f"unix:{tmp_path}/{'d' * 100}/s.sock"):
            pass
    assert caught.value.reason == "SOCKET_PATH_TOO_LONG"


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
async def test_a_port_in_use_is_refused(address: str) -> None:
    """A second server on the same port does not start, and says which address."""
    async with serving(f"{address}:0") as first:
        taken = f"{address}:{first.ports[f'{address}:0']}"
        with pytest.raises(Unavailable) as caught:
            async with serving(taken):
                pass
        assert caught.value.reason == "ADDRESS_IN_USE"
        assert caught.value.metadata == {"address": taken}


async def test_a_message_over_the_limit_ends_in_a_clear_status(tmp_path: Path) -> None:
    """16 MiB pass; more is RESOURCE_EXHAUSTED, whether client or server refuses it."""
    largest = b"x" * (16 << 20)

    async def size(request: bytes, context: Any) -> bytes:
        return str(len(request)).encode()

    async with (
        serving(at(tmp_path), methods={GET: unary(size)}),
        calling(at(tmp_path)) as ours,
        calling_with_defaults(at(tmp_path)) as plain,
    ):
        assert await ours.unary_unary(GET)(largest, timeout=20) == str(len(largest)).encode()
        for channel in (ours, plain):
            status = await ended(channel.unary_unary(GET)(largest + b"x", timeout=20))
            assert status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in (status.details() or "")


async def test_only_what_may_be_repeated_is_repeated(tmp_path: Path) -> None:
    """A unary method that the contract calls idempotent is tried again on UNAVAILABLE, and only then; others once."""
    tried: dict[str, int] = {}

    def failing(name: str, error: type[BeemeshError]) -> Handler:
        async def handler(request: bytes, context: Any) -> bytes:
            tried[name] = tried.get(name, 0) + 1
            raise error("not now", reason="NOT_NOW")

        return handler

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        tried["watch"] = tried.get("watch", 0) + 1
        raise Unavailable("not now", reason="NOT_NOW")
        yield b""

    methods = {
        GET: unary(failing("get", Unavailable)),
        f"/{ENGINE}/ListWorkloads": unary(failing("list", Internal)),
        RESTART: unary(failing("restart", Unavailable)),
        WATCH: streaming(stream),
    }
    async with (
        serving(at(tmp_path), methods=methods),
        calling(at(tmp_path), files=[engine_pb.DESCRIPTOR]) as channel,
        calling(at(tmp_path)) as plain,
    ):
        for path in (GET, f"/{ENGINE}/ListWorkloads", RESTART):
            assert (await refused(channel.unary_unary(path)(b"", timeout=10))).reason == "NOT_NOW"
        await refused(anext(aiter(channel.unary_stream(WATCH)(b"", timeout=10))))
        assert tried == {"get": 4, "list": 1, "restart": 1, "watch": 1}
        await refused(plain.unary_unary(GET)(b"", timeout=10))
        assert tried["get"] == 5


async def test_a_repeat_succeeds_when_the_service_is_back(tmp_path: Path) -> None:
    """A call that may be repeated survives one UNAVAILABLE without its caller noticing."""
    failures = [Unavailable("not now", reason="NOT_NOW")]

    async def handler(request: bytes, context: Any) -> bytes:
        if failures:
            raise failures.pop()
        return b"here"

    async with (
        serving(at(tmp_path), methods={GET: unary(handler)}),
        calling(at(tmp_path), files=[engine_pb.DESCRIPTOR]) as channel,
    ):
        assert await channel.unary_unary(GET)(b"", timeout=5) == b"here"


@pytest.mark.parametrize("mode", ["waiting", "flooding", "between"])
async def test_a_client_that_goes_away_ends_the_servers_stream(tmp_path: Path, mode: str) -> None:
    """Cancelling a stream runs the handler's finally, whether it waits, is blocked in writing, or neither."""
    closed = asyncio.Event()

    async def inner() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            while True:
                if mode == "waiting":
                    await asyncio.Event().wait()
                yield b"x" * (1 << 20 if mode == "flooding" else 1)
                await asyncio.sleep(0 if mode == "flooding" else 0.01)
        finally:
            await asyncio.sleep(0)  # a finally that awaits runs to its end
            closed.set()

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        stream = inner()
        try:
            async for item in stream:
                yield item
        finally:
            await stream.aclose()

    async with serving(at(tmp_path), methods={WATCH: streaming(handler)}), calling(at(tmp_path)) as channel:
        call = channel.unary_stream(WATCH)(b"", timeout=30)
        assert await call.read() == b"first"
        await asyncio.sleep(0.2)
        call.cancel()
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_feed_is_left_when_its_watcher_goes_away(tmp_path: Path) -> None:
    """A watch served from a feed leaves nothing in the feed once the client has gone, however it goes."""
    feed: Feed[bytes] = Feed(epoch="e")
    feed.put("a", b"1")

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        async for event in feed.watch():
            yield event.item or b"-"

    async with serving(at(tmp_path), methods={WATCH: streaming(handler)}), calling(at(tmp_path)) as channel:
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WATCHER, at(tmp_path), WATCH), stdout=asyncio.subprocess.PIPE
        )
        assert killed.stdout is not None
        assert await killed.stdout.readline() == b"watching\n"
        cancelled, expiring = (channel.unary_stream(WATCH)(b"", timeout=timeout) for timeout in (30, 0.3))
        for call in (cancelled, expiring):
            assert [await call.read(), await call.read()] == [b"1", b"-"]
        assert feed.watchers == 3
        cancelled.cancel()
        killed.kill()
        await killed.wait()
        async with asyncio.timeout(5):
            while feed.watchers:
                await asyncio.sleep(0.01)


WATCHER = """
import asyncio, grpc, sys

async def main():
    call = grpc.aio.insecure_channel(sys.argv[1]).unary_stream(sys.argv[2])(b"")
    await call.read()
    print("watching", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_calls_in_flight_finish_before_the_server_stops(tmp_path: Path) -> None:
    """Stopping waits for what is being served, for as long as the drain lasts; new calls are refused."""
    entered = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.sleep(0.3)
        return b"done"

    async with calling(at(tmp_path)) as channel:
        async with serving(at(tmp_path), methods={GET: unary(handler)}, drain_seconds=5):
            call = channel.unary_unary(GET)(b"", timeout=5)
            await entered.wait()
            started = time.monotonic()
        assert await call == b"done"
        assert time.monotonic() - started < 2
        assert isinstance(await refused(channel.unary_unary(GET)(b"", timeout=2)), Unavailable)


async def test_one_handler_for_two_methods_is_told_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors name the method that was called, though a generic handler serves several methods with one object."""

    async def handler(request: bytes, context: Any) -> bytes:
        raise RuntimeError("broken")

    shared = unary(handler)
    async with serving(at(tmp_path), methods={GET: shared, RESTART: shared}), calling(at(tmp_path)) as channel:
        for method in (GET, RESTART, GET):
            error = await refused(channel.unary_unary(method)(b"", timeout=5))
            assert error.metadata == {"method": method}


async def test_a_method_that_changes_its_handler_is_served_by_the_new_one(tmp_path: Path) -> None:
    """What was wrapped once is not served for ever: a generic handler may answer with another handler."""

    async def other(request: bytes, context: Any) -> bytes:
        return b"other"

    methods = {GET: unary(echo)}
    async with serving(at(tmp_path), methods=methods), calling(at(tmp_path)) as channel:
        assert await channel.unary_unary(GET)(b"hi", timeout=5) == b"hi"
        methods[GET] = unary(other)
        assert await channel.unary_unary(GET)(b"hi", timeout=5) == b"other"


PROGRAM = """
import asyncio, sys
from services.errors import Unavailable
from services.rpc.process import run

async def fail():
    raise Unavailable("the port is taken", reason="ADDRESS_IN_USE")

async def main(stop):
    if sys.argv[1] == "fail":
        await fail()
    if sys.argv[1] == "group":
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
    print("ready", flush=True)
    await stop.wait()
    print("stopped", flush=True)

run("beemesh-test", main)
"""


@pytest.mark.parametrize("how", ["fail", "group"])
def test_a_failed_start_is_one_line_and_exit_code_1(how: str) -> None:
    """A domain error at start, in a task group or not, is one line that says what and why."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == "beemesh-test: the port is taken (ADDRESS_IN_USE)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_stop_and_exit_code_0(number: signal.Signals) -> None:
    """SIGTERM and SIGINT let the service stop by itself."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "serve"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "stopped\n"
    assert process.returncode == 0


def certificate(directory: Path) -> Tls:
    """A certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / "cert.pem").write_bytes(signed.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return Tls(certificate=directory / "cert.pem", key=directory / "key.pem")
