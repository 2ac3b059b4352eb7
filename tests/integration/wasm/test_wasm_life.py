"""How functions come, stay and go: code from every source, restarts, kills, and what is left of them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.errors import FailedPrecondition, NotFound
from tests.harness.errors import refusal
from tests.integration.wasm.functions import ECHO, SECONDS, functions, manifest

SEED = """\
apiVersion: beemesh.io/v1
kind: Function
metadata:
  name: data-processor
  annotations:
    beemesh.io/runtime-engine: "wasm"
spec:
  runtime: python:3.9
  handler: main.process
  memory: 512Mi
"""

COPY = """\
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "fail") (call $exit (i32.const 7)))
  (func (export "trap") unreachable))
"""


async def test_the_seeds_function_runs_once_it_has_code(directory: Path) -> None:
    """Without code it is valid, and deploying it says what is missing, leaving alone what runs; with code it runs."""
    async with functions(directory) as engine:
        request = pb.ValidateManifestRequest()
        request.manifest.content = SEED
        verdict = await engine.client.engine.ValidateManifest(request, timeout=SECONDS)
        assert verdict.valid
        assert {issue.reason for issue in verdict.issues} == {"RUNTIME_VERSION", "CODE_REQUIRED"}
        error = await refusal(engine.apply("data-processor", SEED))
        assert (type(error), error.reason) == (FailedPrecondition, "CODE_REQUIRED")
        assert error.message == "spec.code is required by engine wasm"
        assert (error.violations[0].field_path, error.violations[0].line) == ("spec.code", 8)
        code = "  code:\n    inline: |\n      def process(event):\n          return {'sum': sum(event['values'])}\n"
        workload = await engine.apply("data-processor", SEED + code)
        assert workload.components[0].image == "python:3.14"
        assert await engine.result("data-processor", {"values": [1, 2, 3]}) == {"sum": 6}
        assert (await refusal(engine.apply("data-processor", SEED))).reason == "CODE_REQUIRED"
        assert await engine.result("data-processor", {"values": [4]}) == {"sum": 4}


def zipped(**files: str) -> bytes:
    """A zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return buffer.getvalue()


async def test_code_comes_from_files_archives_and_wasm(directory: Path) -> None:
    """Packages and data files are there; a wrong checksum, and a path outside of what is allowed, are refused."""
    (code_dir := directory / "code").mkdir()
    helper = "import json\nfrom pathlib import Path\ndef data(): return Path('/app/data.txt').read_text()\n"
    main = "from pkg.helper import data\ndef process(event, context):\n    return data()\n"
    archive = zipped(**{"main.py": main, "pkg____init__.py": "", "pkg__helper.py": helper, "data.txt": "zip"})
    (code_dir / "code.zip").write_bytes(archive)
    module = wasmtime.wat2wasm(COPY)
    (code_dir / "copy.wasm").write_bytes(module)
    (directory / "secret.zip").write_bytes(archive)
    (code_dir / "link.zip").symlink_to(directory / "secret.zip")
    right, wrong = hashlib.sha256(archive).hexdigest(), "0" * 64
    async with functions(directory, code_dirs=str(code_dir)) as engine:
        files = {"main.py": main, "pkg/__init__.py": "", "pkg/helper.py": helper, "data.txt": "files"}
        await engine.deploy("files", {"files": files})
        assert await engine.result("files") == "files"
        await engine.deploy("archive", {"archive": {"path": f"{code_dir}/code.zip", "sha256": right}})
        assert await engine.result("archive") == "zip"
        refused = {
            "CODE_MISMATCH": {"path": f"{code_dir}/code.zip", "sha256": wrong},
            "PATH_NOT_ALLOWED": {"path": f"{code_dir}/link.zip"},
            "CODE_NOT_FOUND": {"path": f"{code_dir}/nothing.zip"},
            "CODE_INVALID": {"path": f"{code_dir}/copy.wasm"},
            "CODE_UNREACHABLE": {"url": "http://127.0.0.1:9/code.zip", "sha256": right},
        }
        for reason, source in refused.items():
            assert (await refusal(engine.deploy("refused", {"archive": source}))).reason == reason
        wasm = {"wasm": {"path": f"{code_dir}/copy.wasm", "sha256": hashlib.sha256(module).hexdigest()}}
        await engine.deploy("copy", wasm, runtime="wasm", handler="_start", memory="1Mi")
        assert await engine.result("copy", {"a": [1, "ü"]}) == {"a": [1, "ü"]}
        await engine.deploy("fail", wasm, runtime="wasm", handler="fail", memory="1Mi")
        failed = await engine.refused("fail")
        assert (failed.reason, "7" in failed.message) == ("FUNCTION_ERROR", True)
        await engine.deploy("trap", wasm, runtime="wasm", handler="trap", memory="1Mi")
        assert (await engine.refused("trap")).reason == "FUNCTION_TRAPPED"
        missing = await refusal(engine.deploy("none", wasm, runtime="wasm", handler="nobody", memory="1Mi"))
        assert missing.reason == "HANDLER_NOT_FOUND"
        (code_dir / "bad.wasm").write_bytes(b"\0asm\1\0\0\0nonsense")
        bad = {"wasm": {"path": f"{code_dir}/bad.wasm"}}
        assert (await refusal(engine.deploy("bad", bad, runtime="wasm", handler="_start"))).reason == "CODE_INVALID"


COMPONENT = """\
(component
  (core module $m (func (export "run") (result i32) i32.const {code}))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (component $c (import "f" (func $f (result (result)))) (export "run" (func $f)))
  (instance $r (instantiate $c (with "f" (func $run))))
  (export "wasi:cli/run@0.2.0" (instance $r)))
"""

STRANGE = {
    "module": '(module (import "env" "system" (func)) (func (export "_start")))',
    "component": '(component (import "wasi:http/outgoing-handler@0.2.0" (instance)))',
}


async def test_code_is_fetched_by_url(directory: Path) -> None:
    """As long as its checksum is the one that was named; a page that is not there says so."""
    archive = zipped(**{"main.py": ECHO})
    right = hashlib.sha256(archive).hexdigest()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status, body = ("200 OK", archive) if head.startswith(b"GET /code.zip ") else ("404 Not Found", b"")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, functions(directory) as engine:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await engine.deploy("fetched", {"archive": {"url": f"{base}/code.zip", "sha256": right}})
        assert await engine.result("fetched", 5) == 5
        wrong = {"archive": {"url": f"{base}/code.zip", "sha256": "0" * 64}}
        assert (await refusal(engine.deploy("wrong", wrong))).reason == "CODE_MISMATCH"
        missing = {"archive": {"url": f"{base}/other.zip", "sha256": right}}
        assert (await refusal(engine.deploy("missing", missing))).reason == "CODE_NOT_FOUND"


async def test_components_run_too_and_what_asks_for_more_is_refused(directory: Path) -> None:
    """One with wasi:cli/run, that succeeds or fails; imports that functions do not get are named at the deploy."""

    def lay(name: str, text: str) -> dict[str, Any]:
        (directory / name).write_bytes(wasmtime.wat2wasm(text))
        return {"wasm": {"path": f"{directory}/{name}"}}

    async with functions(directory, code_dirs=str(directory)) as engine:
        for code in (0, 1):
            wasm = lay(f"{code}.wasm", COMPONENT.format(code=code))
            await engine.deploy(f"exit-{code}", wasm, runtime="wasm", handler="run", memory="1Mi")
        assert await engine.result("exit-0") is None
        assert (await engine.refused("exit-1")).reason == "FUNCTION_ERROR"
        for kind, text in STRANGE.items():
            handler = "_start" if kind == "module" else "run"
            deploying = engine.deploy("strange", lay("strange.wasm", text), runtime="wasm", handler=handler)
            error = await refusal(deploying)
            assert (error.reason, "there is no network" in error.message) == ("FUNCTION_LOAD_FAILED", True)


async def test_functions_are_there_again_after_a_restart(directory: Path) -> None:
    """The same bytes, the same component; what was half made is gone; instances are made only when they are called."""
    code = ECHO + "# \u00fc \u2603\n"
    async with functions(directory) as engine:
        before = await engine.deploy("kept", code)
        await engine.deploy("stopped", code)
        await engine.client.engine.StopWorkload(pb.StopWorkloadRequest(workload_id="stopped"), timeout=SECONDS)
        await engine.call("kept", 1)
        places = [Path(root, name) for root, _, files in os.walk(directory / "engine/functions") for name in files]
        content = {path: path.read_bytes() for path in places}
    half = directory / "engine/functions/.new-half"
    half.mkdir()
    (half / "code").write_text("cut")
    async with functions(directory) as engine:
        assert {path: path.read_bytes() for path in places} == content
        assert not half.exists()
        after = await engine.get("kept")
        assert after.components[0].component_id == before.components[0].component_id
        assert "instances" not in dict(after.engine_details)
        text = pb.GetWorkloadManifestRequest(workload_id="kept")
        kept = (await engine.client.engine.GetWorkloadManifest(text, timeout=SECONDS)).manifest.content
        assert kept == manifest("kept", code)
        cold = await engine.call("kept", 2)
        assert cold.cold_start
        assert not (await engine.call("kept", 2)).cold_start
        error = await engine.refused("stopped")
        assert (type(error), error.reason) == (FailedPrecondition, "WORKLOAD_NOT_RUNNING")
        await engine.client.engine.StartWorkload(pb.StartWorkloadRequest(workload_id="stopped"), timeout=SECONDS)
        assert await engine.result("stopped", 3) == 3


async def test_an_idle_function_has_no_process(directory: Path) -> None:
    """After its time it is scaled to zero; the next call starts it again, and is told to be a cold one."""
    async with functions(directory, idle_timeout=0.4) as engine:
        await engine.deploy("idle")
        await engine.call("idle")
        async with asyncio.timeout(SECONDS):
            while await engine.fact("idle", "instances"):
                await asyncio.sleep(0.1)
        assert (await engine.get("idle")).state == wpb.WORKLOAD_STATE_RUNNING
        assert (await engine.call("idle")).cold_start
        assert await engine.fact("idle", "cold_starts") == 2


async def test_a_removed_function_leaves_nothing(directory: Path) -> None:
    """No directory, no process; a call under way may end first, and is not cut."""
    async with functions(directory) as engine:
        await engine.deploy(
            "gone", "import time\ndef process(event):\n    print(1)\n    time.sleep(0.6)\n    return 'done'\n"
        )
        pids = [int(pid) for pid in await engine.fact("gone", "worker_pids")]
        call = asyncio.ensure_future(engine.call("gone"))
        async with asyncio.timeout(SECONDS):
            while not await engine.logs("gone"):
                await asyncio.sleep(0.05)
        request = pb.RemoveWorkloadRequest(workload_id="gone")
        await engine.client.engine.RemoveWorkload(request, timeout=SECONDS)
        assert json.loads((await call).result_json) == "done"
        assert isinstance(await engine.refused("gone"), NotFound)
        assert list((directory / "engine/functions").iterdir()) == []
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, signal.SIG_DFL)


async def test_workers_are_shared_among_functions_up_to_a_limit(directory: Path) -> None:
    """A function that needs one takes it from whoever has been idle longest; when all are busy it is refused."""
    code = "import time\ndef process(event):\n    print(1)\n    time.sleep(event)\n    return event\n"
    async with functions(directory, workers=2, spare_workers=0) as engine:
        for name in ("a", "b", "c"):
            await engine.deploy(name, code, concurrency=2)
        instances = [await engine.fact(name, "instances") for name in ("a", "b", "c")]
        assert instances == [0, 1, 1]
        calls = [asyncio.ensure_future(engine.call(name, 1.5)) for name in ("b", "c")]
        async with asyncio.timeout(SECONDS):
            while not (await engine.logs("b") and await engine.logs("c")):
                await asyncio.sleep(0.05)
        assert (await engine.refused("a", 0)).reason == "WORKERS_BUSY"
        await asyncio.gather(*calls)
        assert await engine.result("a", 0) == 0
