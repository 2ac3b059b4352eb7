"""The HTTP trigger: a function behind a port, spoken to by clients of every kind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.errors import FailedPrecondition
from tests.harness.errors import refusal
from tests.integration.wasm.functions import SECONDS, Functions, functions

CODE = """\
import time

def process(event):
    if event["path"] == "/hook/slow":
        print("begun")
        time.sleep(20)
    if event["path"] == "/hook/raise":
        raise ValueError("no")
    if event["path"] == "/hook/plain":
        return {"n": 9007199254740993}
    if event["path"] == "/hook/bad":
        return {"statusCode": 200, "headers": {"x": "a\\r\\nset-cookie: b"}}
    return {
        "statusCode": 201,
        "headers": {"X-Method": event["httpMethod"], "x-query": event["queryStringParameters"].get("q", "")},
        "body": event["body"] or "",
        "isBase64Encoded": event["isBase64Encoded"],
    }
"""


async def deployed(engine: Functions, **spec: Any) -> int:
    """The function's port."""
    workload = await engine.deploy("hook", CODE, trigger={"http": {"path": "/hook"}}, **spec)
    (port,) = workload.ports
    assert (port.host_ip, port.protocol) == ("127.0.0.1", wpb.PORT_PROTOCOL_TCP)
    return port.host_port


class Connection:
    """A client that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(
        self, method: str, target: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request and its response."""
        lines = [f"{method} {target} HTTP/1.1", "Host: f", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await self.response(method)

    async def response(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """The next response."""
        async with asyncio.timeout(SECONDS):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            size = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
            return int(status.split()[1]), headers, await self.reader.readexactly(size)

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()


async def test_requests_reach_the_function_and_responses_come_back(engine: Functions) -> None:
    """Method, query, text and bytes both ways, on one connection; its path and below, nothing else."""
    client = await Connection.to(await deployed(engine))
    status, headers, body = await client.ask("POST", "/hook/a?q=1%202", body="ü".encode())
    assert (status, headers["x-method"], headers["x-query"], body) == (201, "POST", "1 2", "ü".encode())
    assert len(headers["x-beemesh-invocation-id"]) == 32
    assert (await client.ask("PUT", "/hook", body=bytes(range(256))))[2] == bytes(range(256))
    status, headers, body = await client.ask("HEAD", "/hook")
    assert (status, headers["x-method"], body) == (201, "HEAD", b"")
    assert (await client.ask("GET", "/hook/plain"))[2] == b'{"n":9007199254740993}'
    assert (await client.ask("GET", "/other"))[0] == 404
    chunked = b"POST /hook HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    client.writer.write(chunked + b"GET /hook/plain HTTP/1.1\r\nHost: f\r\n\r\n")
    assert (await client.response())[2] == b"abc"
    assert (await client.response())[0] == 200
    client.writer.write(b"POST /hook HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.response())[0] == 100
    client.writer.write(b"x")
    assert (await client.response())[2] == b"x"
    await client.close()


async def test_what_goes_wrong_has_a_status(engine: Functions) -> None:
    """A handler that raises or is cut, a response that is none, nonsense, too much; the next request is served."""
    port = await deployed(engine, timeout="600ms")
    client = await Connection.to(port)
    status, _, body = await client.ask("GET", "/hook/raise")
    told = json.loads(body)["error"]
    assert (status, told["reason"], "main.py" in body.decode()) == (500, "FUNCTION_ERROR", False)
    assert (await client.ask("GET", "/hook/bad"))[0] == 502
    assert (await client.ask("GET", "/hook/slow"))[0] == 504
    assert (await client.ask("GET", "/hook"))[0] == 201
    await client.close()
    refused = {
        b"nonsense\r\n\r\n": 400,
        b"GET /hook HTTP/1.1\r\n\r\n": 400,
        b"GET /hook HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
        b"GET /hook HTTP/1.1\r\nHost: f\r\nX: " + b"x" * 90_000 + b"\r\n\r\n": 431,
        b"POST /hook HTTP/1.1\r\nHost: f\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000: 413,
    }
    for data, expected in refused.items():
        client = await Connection.to(port)
        client.writer.write(data)
        assert (await client.response())[0] == expected
        await client.close()


async def test_a_client_that_hangs_up_ends_its_call(engine: Functions) -> None:
    """The only instance is free for the next one."""
    port = await deployed(engine, concurrency=1)
    client = await Connection.to(port)
    client.writer.write(b"GET /hook/slow HTTP/1.1\r\nHost: f\r\n\r\n")
    async with asyncio.timeout(SECONDS):
        while not await engine.logs("hook"):
            await asyncio.sleep(0.05)
    await client.close()
    other = await Connection.to(port)
    assert (await other.ask("GET", "/hook"))[0] == 201
    await other.close()


async def test_the_port_stays_and_closes_with_the_function(directory: Path) -> None:
    """The same after a restart of the engine, closed while it is stopped; a wanted one that is taken is an error."""
    async with functions(directory) as engine:
        port = await deployed(engine)
    async with functions(directory) as engine:
        client = await Connection.to(port)
        assert (await client.ask("GET", "/hook"))[0] == 201
        stopped = pb.StopWorkloadRequest(workload_id="hook")
        workload = (await engine.client.engine.StopWorkload(stopped, timeout=SECONDS)).workload
        assert list(workload.ports) == []
        assert await client.reader.read() == b""
        await client.close()
        try:
            await Connection.to(port)
        except ConnectionRefusedError:
            await engine.client.engine.StartWorkload(pb.StartWorkloadRequest(workload_id="hook"), timeout=SECONDS)
        client = await Connection.to(port)
        assert (await client.ask("GET", "/hook"))[0] == 201
        await client.close()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            trigger = {"http": {"port": taken.getsockname()[1]}}
            error = await refusal(engine.deploy("other", CODE, trigger=trigger))
        assert (type(error), error.reason) == (FailedPrecondition, "PORT_IN_USE")
