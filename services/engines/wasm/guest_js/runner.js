// Loads a function's code and calls its handler, inside the sandbox. It knows nothing of the engine outside.

const { parse, stringify, rawJSON } = JSON;
const evaluate = eval; // called by another name it sees the global scope alone
const now = Date.now;

let handler = null;
let told = null; // of the order: name, memory_bytes, env
let pending = null; // the promise of the invocation under way: { state, value }
let timers = [];
let lastTimer = 0;

const done = (val) => ({ tag: "done", val });
const problem = (facts) => ({ tag: "problem", val: stringify(facts) });

class Problem extends Error {
  constructor(kind, message, facts = {}) {
    super(message);
    this.facts = { kind, message, ...facts };
  }
}

// Files: each is evaluated at lines of its own, so that a place in a stack says which file it is.

let files = {};
let modules = new Map();
let places = []; // { name, first } by ascending first line
let nextLine = 1;

function placed(text) {
  return text
    .split("\n")
    .filter((line) => !line.includes("/runner.js:") && !line.includes("(native)"))
    .map((line) => line.replace(/<input>:(\d+)/g, (all, number) => at(Number(number)) ?? all))
    .map((line) => line.replace(/<eval>/, "<module>"))
    .join("\n");
}

function where(number) {
  const place = places.findLast(({ first }) => first <= number);
  return place && { file: place.name, line: Math.min(number - place.first + 1, place.count) };
}

function at(number) {
  const place = where(number);
  return place && `${place.file}:${place.line}`;
}

function evaluated(name, text) {
  const count = text.split("\n").length;
  const first = nextLine + 1; // the wrapper has a line of its own
  places.push({ name, first, count });
  nextLine += count + 2;
  const wrapper = "(function (exports, require, module, __filename, __dirname) {";
  try {
    return evaluate("\n".repeat(first - 2) + wrapper + "\n" + text + "\n})");
  } catch (error) {
    const place = where(Number(/<input>:(\d+)/.exec(error.stack)?.[1] ?? first));
    const message = `${place.file} line ${place.line}: ${error.message}`;
    throw new Problem("syntax", message, { ...place, type: error.name, language: "JavaScript" });
  }
}

const ENDINGS = ["", ".js", ".cjs", ".json", "/index.js"];

function found(path) {
  return ENDINGS.map((ending) => path + ending).find((name) => Object.hasOwn(files, name));
}

function joined(directory, name) {
  const parts = name.startsWith(".") ? directory.split("/").filter(Boolean) : [];
  for (const part of name.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "." && part !== "") parts.push(part);
  }
  return parts.join("/");
}

function required(directory, name) {
  const file = found(joined(directory, String(name)));
  if (file === undefined) {
    throw Object.assign(new Error(`there is no module '${name}' in the code`), { code: "MODULE_NOT_FOUND" });
  }
  if (modules.has(file)) return modules.get(file).exports;
  const module = { exports: {}, id: file };
  modules.set(file, module);
  try {
    if (file.endsWith(".json")) {
      module.exports = parse(files[file]);
    } else {
      const inside = file.split("/").slice(0, -1).join("/");
      const run = evaluated(file, files[file]);
      run.call(module.exports, module.exports, (other) => required(inside, other), module, file, inside);
    }
  } catch (error) {
    modules.delete(file);
    throw error;
  }
  return module.exports;
}

// JSON: integers that a Number cannot hold are BigInts, in both directions.

function decoded(event) {
  try {
    return /\d{16}/.test(event) ? parse(event, exact) : parse(event);
  } catch (error) {
    throw new Problem("event", `the event is not JSON: ${error.message}`);
  }
}

function exact(key, value, { source } = {}) {
  return typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? BigInt(source) : value;
}

function encoded(result) {
  try {
    return stringify(result === undefined ? null : result, plain);
  } catch (error) {
    throw new Problem("result", `the handler's result is not JSON: ${error.message}`);
  }
}

function plain(key, value) {
  if (typeof value === "bigint") return rawJSON(value.toString());
  const strange =
    typeof value === "function" || typeof value === "symbol" || (typeof value === "number" && !Number.isFinite(value));
  if (strange) throw new TypeError(`${key || "it"} is ${String(value).slice(0, 100)}`);
  if (value instanceof Map || value instanceof Set) throw new TypeError(`${key || "it"} is a ${value.constructor.name}`);
  return value;
}

// What the language itself lacks.

function shown(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return `${value}\n${placed(value.stack ?? "")}`.trimEnd();
  try {
    return stringify(value, (_, inner) => (typeof inner === "bigint" ? rawJSON(inner.toString()) : inner)) ?? String(value);
  } catch {
    return String(value);
  }
}

const write = globalThis.write;
delete globalThis.write;
const printer = (stream) => (...values) => write(stream, values.map(shown).join(" ") + "\n");
const [out, err] = [printer("stdout"), printer("stderr")];
globalThis.console = { log: out, info: out, debug: out, warn: err, error: err, trace: err };

function later(seconds, call, every = null) {
  const timer = { id: ++lastTimer, due: now() + seconds * 1000, call, every };
  timers.push(timer);
  return timer.id;
}

function cleared(id) {
  timers = timers.filter((timer) => timer.id !== id);
}

const delay = (milliseconds) => Math.max(1, Number(milliseconds) || 0) / 1000;
globalThis.setTimeout = (call, wait, ...rest) => later(delay(wait), () => call(...rest));
globalThis.setInterval = (call, wait, ...rest) => later(delay(wait), () => call(...rest), delay(wait));
globalThis.setImmediate = (call, ...rest) => later(0, () => call(...rest));
globalThis.clearTimeout = globalThis.clearInterval = globalThis.clearImmediate = cleared;
globalThis.process = { env: {}, argv: [], nextTick: (call, ...rest) => queueMicrotask(() => call(...rest)) };

// The snapshot's state of chance is everybody's: each instance has its own, from outside (sfc32).
function chance([a, b, c, d]) {
  const next = () => {
    const sum = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum | 0;
    return sum >>> 0;
  };
  for (let round = 0; round < 12; round++) next();
  return () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
}

// Calls.

function failed(kind, error) {
  if (error instanceof Problem) return problem(error.facts);
  if (error?.name === "InternalError" && /out of memory/.test(error.message)) {
    return problem({ kind: "memory", message: "the function ran out of memory", type: error.name });
  }
  if (!(error instanceof Error)) return problem({ kind, type: typeof error, message: shown(error) });
  const type = String(error.name);
  return problem({ kind, type, message: String(error.message), trace: shown(error) });
}

function context(call) {
  const deadline = call.deadline * 1000;
  return {
    invocationId: call.id,
    functionName: told.name,
    memoryBytes: told.memory_bytes,
    deadline: new Date(deadline),
    env: told.env,
    remainingSeconds: () => Math.max(0, (deadline - now()) / 1000),
  };
}

export function load(text) {
  try {
    told = parse(text);
    files = told.files;
    Object.assign(globalThis.process.env, told.env);
    Math.random = chance(told.seed);
    const [, path, name] = /^(.*)\.([^.]+)$/.exec(told.handler);
    if (found(path.replaceAll(".", "/")) === undefined) {
      throw new Problem("handler", `there is no module '${path}' in the code`);
    }
    const module = required("", path.replaceAll(".", "/"));
    handler = module?.[name];
    if (typeof handler !== "function") {
      const what = handler === undefined ? "exports no" : "exports, but cannot call,";
      throw new Problem("handler", `module ${path} ${what} '${name}'`);
    }
    return done("{}");
  } catch (error) {
    return failed("load", error);
  }
}

export function invoke(event, call) {
  timers = []; // what an earlier call left running has ended with it
  try {
    const result = handler(decoded(event), context(parse(call)));
    if (typeof result?.then !== "function") return done(encoded(result));
    const mine = (pending = { state: "pending", value: undefined });
    const settled = (state) => (value) => Object.assign(mine, { state, value });
    Promise.resolve(result).then(settled("done"), settled("failed"));
    return { tag: "wait", val: 0 };
  } catch (error) {
    return failed("raised", error);
  }
}

export async function tick() {}

export function settle() {
  try {
    if (pending.state === "done") return done(encoded(pending.value));
    if (pending.state === "failed") return failed("raised", pending.value);
    if (!timers.length) {
      throw new Error("the handler waits for something that nothing in the sandbox can bring about");
    }
    const first = timers.reduce((one, other) => (other.due < one.due ? other : one));
    const left = first.due - now();
    if (left > 0) return { tag: "wait", val: left / 1000 };
    if (first.every === null) cleared(first.id);
    else first.due = now() + first.every * 1000;
    first.call();
    return { tag: "wait", val: 0 };
  } catch (error) {
    return failed("raised", error);
  }
}
