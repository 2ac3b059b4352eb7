"""A function's code from its manifest to a directory: inline, files, an archive or WebAssembly, within bounds.

Every function here blocks: call it from a thread.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from services.engines.wasm.store import CODE, WASM, disk
from services.engines.wasm.toolchain import kind_of
from services.errors import BeemeshError, FailedPrecondition, Unavailable

ARTIFACT_MAX = 64 << 20
"""Bytes of an archive or a WebAssembly file."""
UNPACKED_MAX = 256 << 20
FILES_MAX = 10_000
FETCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """Code as it lies in a directory."""

    wasm_sha256: str = ""
    wasm_kind: str = ""


def lay(code: Mapping[str, Any], directory: Path, *, handler: str, roots: Sequence[Path], suffix: str = ".py") -> Laid:
    """Put the code of `spec.code` into `directory`; paths of this machine count only below one of `roots`.

    Raises FailedPrecondition (CODE_NOT_FOUND, CODE_MISMATCH, CODE_INVALID, PATH_NOT_ALLOWED), Unavailable
    (CODE_UNREACHABLE), ResourceExhausted (DISK_FULL).
    """
    with disk(directory):
        return _lay(code, directory, handler=handler, roots=roots, suffix=suffix)


def _lay(code: Mapping[str, Any], directory: Path, *, handler: str, roots: Sequence[Path], suffix: str) -> Laid:
    if "wasm" in code:
        return _lay_wasm(_fetched(code["wasm"], "spec.code.wasm", roots), directory)
    files = directory / CODE
    files.mkdir(mode=0o700)
    if "inline" in code:
        module = handler.rpartition(".")[0]
        _write(files, module.replace(".", "/") + suffix, code["inline"].encode())
    elif "files" in code:
        for name, text in code["files"].items():
            _write(files, name, text.encode())
    else:
        _unpack(_fetched(code["archive"], "spec.code.archive", roots), files)
    return Laid()


def _lay_wasm(data: bytes, directory: Path) -> Laid:
    try:
        kind = kind_of(data)
    except ValueError as error:
        raise _invalid("spec.code.wasm", str(error)) from None
    (directory / WASM).write_bytes(data)
    return Laid(wasm_sha256=hashlib.sha256(data).hexdigest(), wasm_kind=kind)


def _fetched(source: Mapping[str, str], field: str, roots: Sequence[Path]) -> bytes:
    data = _download(source["url"], field) if "url" in source else _local(source["path"], field, roots)
    wanted, found = source.get("sha256", "").lower(), hashlib.sha256(data).hexdigest()
    if wanted and wanted != found:
        raise FailedPrecondition(
            f"{field}: what was fetched has sha256 {found}, not {wanted}",
            reason="CODE_MISMATCH",
            metadata={"field": field, "sha256": found},
        )
    return data


def _local(path: str, field: str, roots: Sequence[Path]) -> bytes:
    real = Path(path).resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(map(str, roots)) or "none; set code_dirs to allow some"
        raise FailedPrecondition(
            f"{field}.path: {path} is in no directory that this node takes code from ({allowed})",
            reason="PATH_NOT_ALLOWED",
            metadata={"field": field},
        )
    try:
        with real.open("rb") as file:
            return _bounded(file, field)
    except OSError as error:
        raise _not_found(field, f"{path}: {error.strerror}") from error


def _download(url: str, field: str) -> bytes:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as response:
            return _bounded(response, field)
    except urllib.error.HTTPError as error:
        error.close()  # it is an open answer, too
        raise _not_found(field, f"{url} answers {error.code}") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"{field}: {url} cannot be read: {error}", reason="CODE_UNREACHABLE") from error


def _bounded(file: Any, field: str) -> bytes:
    data = bytes(file.read(ARTIFACT_MAX + 1))
    if len(data) > ARTIFACT_MAX:
        raise _invalid(field, f"it is larger than {ARTIFACT_MAX >> 20} MiB")
    return data


def _unpack(data: bytes, directory: Path) -> None:
    left, files = UNPACKED_MAX, 0
    try:
        for name, member in _members(data):
            content = _read(member, left + 1)  # a small archive may hold a huge file
            files += 1
            left -= len(content)
            if left < 0 or files > FILES_MAX:
                raise _invalid("spec.code.archive", f"it holds more than {UNPACKED_MAX >> 20} MiB or {FILES_MAX} files")
            _write(directory, name, content)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _invalid("spec.code.archive", f"it cannot be unpacked: {error}") from error


def _read(member: IO[bytes], size: int) -> bytes:
    """At most so many bytes of a member; raises ValueError for what is damaged."""
    try:
        with member:
            return member.read(size)
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(str(error)) from error


def _members(data: bytes) -> Iterator[tuple[str, IO[bytes]]]:
    """The plain files of a zip or a tar, compressed or not; links and devices are refused."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, archive.open(info)
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            file = tar.extractfile(member) if member.isreg() else None
            if file is None:
                raise ValueError(f"{member.name} is no plain file")
            yield member.name, file


def _write(directory: Path, name: str, data: bytes) -> None:
    inner = PurePosixPath(name)
    if inner.is_absolute() or ".." in inner.parts or "\0" in name or not inner.parts:
        raise _invalid("spec.code", f"{name!r} leads out of the code's directory")
    path = directory / inner
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _invalid("spec.code", f"{name!r} is a file and a directory at once") from error


def _invalid(field: str, why: str) -> BeemeshError:
    return FailedPrecondition(f"{field}: {why}", reason="CODE_INVALID", metadata={"field": field})


def _not_found(field: str, why: str) -> BeemeshError:
    return FailedPrecondition(f"{field}: {why}", reason="CODE_NOT_FOUND", metadata={"field": field})
