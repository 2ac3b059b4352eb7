"""A container registry of a test's own: docker-registry on loopback, with TLS and a login; it counts its requests."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

USER = "tester"
PASSWORD = "correct horse"
_BCRYPT = "$2b$04$E47ie/K.uPz0GgyC7JCpyuyfQVBvcblvGAfL2jTtqHLsXlRWCCSUm"
"""Of PASSWORD; written out, as nothing that must be installed for it makes one."""
_FETCHED = Path(__file__).parents[2] / ".build/bin/docker-registry"
"""Unpacked, not installed: Debian's package would start a registry that is open to everybody."""
_START_SECONDS = 10.0
_PIECE = 64 << 10
_REQUEST = re.compile(r'"(GET|HEAD|POST|PUT|PATCH) (/v2/\S*) HTTP')


class Registry:
    """Running between enter and exit. Raises RuntimeError or OSError when docker-registry cannot be used here."""

    def __enter__(self) -> Self:
        program = shutil.which("docker-registry") or shutil.which(_FETCHED)
        if program is None:
            raise RuntimeError("docker-registry is not installed; scripts/setup.sh tools fetches it")
        self.directory = Path(tempfile.mkdtemp(prefix="bmr"))
        self.host = f"127.0.0.1:{_free_port()}"
        self.certs = self.directory / "ca"
        """Holds the authority that vouches for it."""
        self._log = self.directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", self._configuration()], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)

    def requests(self) -> list[str]:
        """What it was asked so far, as `GET /v2/…`."""
        return [f"{method} {path}" for method, path in _REQUEST.findall(self._log.read_text())]

    @asynccontextmanager
    async def slowly(self, bytes_per_second: float) -> AsyncIterator[str]:
        """Another host and port of it, through which it sends no faster than this."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, _, port = self.host.partition(":")
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(
                _pass_on(reader, inner_writer, 0.0),
                _pass_on(inner_reader, writer, _PIECE / bytes_per_second),
                return_exceptions=True,
            )

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            yield "{}:{}".format(*server.sockets[0].getsockname())

    def _configuration(self) -> Path:
        certificate, key = _certificate()
        self.certs.mkdir()
        for name, content in (("cert.pem", certificate), ("ca/registry.crt", certificate), ("key.pem", key)):
            (self.directory / name).write_bytes(content)
        (self.directory / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        path = self.directory / "config.yml"
        path.write_text(
            f"""version: 0.1
storage: {{filesystem: {{rootdirectory: {self.directory}/data}}}}
http: {{addr: "{self.host}", tls: {{certificate: {self.directory}/cert.pem, key: {self.directory}/key.pem}}}}
auth: {{htpasswd: {{realm: test, path: {self.directory}/htpasswd}}}}
"""
        )
        return path

    def _wait(self) -> None:
        host, _, port = self.host.partition(":")
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with closing(socket.create_connection((host, int(port)), timeout=1)):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"docker-registry does not serve: {self._log.read_text()[-500:]}") from None
                time.sleep(0.02)


@contextmanager
def skip_without_registry() -> Iterator[None]:
    """Where docker-registry cannot be used: fail if BEEMESH_REQUIRE_ENGINES names it, else skip, with the reason."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if "docker-registry" in os.environ.get("BEEMESH_REQUIRE_ENGINES", "").split(","):
            pytest.fail(f"docker-registry must be here and cannot be used: {error}")
        pytest.skip(f"docker-registry cannot be used here: {error}")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    finally:
        writer.close()


def _certificate() -> tuple[bytes, bytes]:
    """One for loopback that vouches for itself, and its key; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test registry")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
