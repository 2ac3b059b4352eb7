"""Functions in JavaScript: calls, promises, errors and limits; and a node that lacks what builds their runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.errors import BeemeshError, FailedPrecondition
from tests.harness.errors import refusal
from tests.integration.wasm.functions import Functions, functions

NODE_MODULES = Path(__file__).parents[3] / ".build/javascript/node_modules"

with_jco = pytest.mark.skipif(
    not (NODE_MODULES / ".bin/jco").exists(), reason="jco is not here: scripts/setup.sh tools"
)


@pytest.fixture
async def engine(directory: Path) -> AsyncIterator[Functions]:
    """One that can build the JavaScript runtime."""
    async with functions(directory, node_modules=str(NODE_MODULES)) as running:
        yield running


async def deployed(engine: Functions, code: str | Mapping[str, Any], **spec: Any) -> None:
    """A function called `js`."""
    given = {"inline": code} if isinstance(code, str) else code
    await engine.deploy("js", given, **{"runtime": "javascript", "memory": "32Mi", **spec})


FILES = {
    "main.js": """\
const { fail } = require("./lib/fails");
exports.process = async (event, context) => {
  console.log("seen", event);
  if (event === "fail") fail();
  if (event === "hang") await new Promise(() => {});
  await new Promise((go) => setTimeout(go, 20));
  return [event, process.env, context.functionName, require("./data.json").n];
};
""",
    "lib/fails.js": "\nexports.fail = () => {\n  throw new TypeError('no bee');\n};\n",
    "data.json": '{"n": 5}',
}


@with_jco
async def test_an_async_handler_of_several_files_is_awaited(engine: Functions) -> None:
    """Integers stay exact, the environment is the declared one, lines are logged, errors have type, message, place."""
    await deployed(engine, {"files": FILES}, env=[{"name": "A", "value": "b"}])
    assert await engine.result("js", 9007199254740993) == [9007199254740993, {"A": "b"}, "js", 5]
    assert [entry.text for entry in await engine.logs("js")] == ["seen 9007199254740993"]
    error = await engine.refused("js", "fail")
    assert (error.reason, error.metadata["error_type"]) == ("FUNCTION_ERROR", "TypeError")
    assert "no bee" in error.message
    assert "lib/fails.js:3" in error.trace
    assert "nothing in the sandbox can bring about" in (await engine.refused("js", "hang")).message
    assert (await engine.result("js", 1))[0] == 1


LIMITS = """\
exports.process = (event) => {
  const kept = [];
  if (event === "loop") for (;;);
  if (event === "memory") for (;;) kept.push(new Uint8Array(1 << 20).fill(1));
  if (event === "deep") { const down = () => down() + 1; down(); }
  if (event === "nan") return { a: NaN };
  return event;
};
"""


@with_jco
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("loop", "FUNCTION_TIMEOUT"),
        ("memory", "OUT_OF_MEMORY"),
        ("deep", "FUNCTION_TRAPPED"),
        ("nan", "RESULT_NOT_JSON"),
    ],
)
async def test_its_limits_hold_and_the_next_call_works(engine: Functions, event: str, reason: str) -> None:
    """An endless loop, too much memory, bottomless recursion, a result that JSON cannot tell."""
    await deployed(engine, LIMITS, timeout="2s")
    assert (await engine.refused("js", event)).reason == reason
    assert await engine.result("js", "fine") == "fine"


@with_jco
@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        ("let a = 1;\n\nlet x = ;\n", "CODE_INVALID", "not JavaScript: main.js line 3"),
        ("exports.other = 1;\n", "HANDLER_NOT_FOUND", "process"),
        ("exports.process = 1;\n", "HANDLER_NOT_FOUND", "cannot call"),
        ("require('fs');\n", "FUNCTION_LOAD_FAILED", "fs"),
    ],
)
async def test_code_that_cannot_be_loaded_is_refused(engine: Functions, code: str, reason: str, words: str) -> None:
    """When it is deployed: a syntax error with its line, no handler, a module that is not there."""
    error = await refusal(deployed(engine, code))
    assert (type(error), error.reason) == (FailedPrecondition, reason)
    assert words in error.message


async def test_without_its_tools_it_is_refused_with_how_to_install_them(directory: Path, tmp_path: Path) -> None:
    """FAILED_PRECONDITION with the line; functions in other languages are as before."""
    async with functions(directory, node_modules="/nowhere", cache_dir=str(tmp_path)) as engine:
        error: BeemeshError = await refusal(deployed(engine, "exports.process = (event) => event;\n"))
    assert (type(error), error.reason) == (FailedPrecondition, "RUNTIME_NOT_AVAILABLE")
    assert "npm install --global @bytecodealliance/jco" in error.message
