// A second agent for the bus: `node agent.js --fd N` or `--socket PATH`. Written from docs/reference/protocol.md alone, without a
// library, to show that other languages can join. A Pack's component is a module beside the file that RUN_PHASE names
// (`setup.py` → `setup.js`) with `run(context)`.
//
// One thread, no locks: handlers are functions or generators, plain or async. What a call brought in is released when the
// call was answered, unless the handler says `fn.keep()`.
"use strict";

const { AsyncLocalStorage } = require("node:async_hooks");
const net = require("node:net");
const path = require("node:path");

const { Malformed, Refused, encode } = require("./msgpack.js");
const { KIND, ProtocolError, Splitter, chunked, frame, inChunks, parse, readBody } = require("./frames.js");

const STREAM = 1; // bit 0 of RESULT's flags
const OWN = 0;
const HELD = 1;
const SOURCE = 2; // a stream in the arguments of a call
const NAMED = 1024; // references, or numbers given back, of one frame
const serving = new AsyncLocalStorage();
const TYPE = /^[a-z][a-z0-9_.-]*\/[A-Za-z0-9_./-]+$/;

/** An ERROR, or the error of a STREAM_END. */
class BusError extends Error {
  constructor([type, title, detail, retryable]) {
    super(title);
    Object.assign(this, { busType: type, detail, retryable });
  }
}

class Cancelled extends Error {}

const CANCELLED = ["cancelled", "the call was cancelled", "", false, ""];

function errorFields(problem) {
  if (problem instanceof Cancelled) return CANCELLED;
  if (problem instanceof Refused) return [problem.type, problem.message.slice(0, 500), "", false, ""];
  if (problem instanceof Malformed) return ["value.malformed", problem.message.slice(0, 500), "", false, ""];
  const own = typeof problem?.type === "string" && TYPE.test(problem.type) ? problem.type : null;
  const name = problem instanceof BusError ? "BusError" : problem?.constructor?.name ?? "Error";
  const title = String(problem?.message ?? problem).slice(0, 500);
  return [own ?? `error/${name}`, title, problem?.busType ? `[${problem.busType}]` : "", false, String(problem?.stack ?? "").slice(0, 8000)];
}

class Agent {
  constructor(socket) {
    this.socket = socket;
    this.splitter = new Splitter(1024 * 1024);
    this.limits = { frame_bytes: 1024 * 1024, in_flight: 1024, stream_credit: 16 };
    this.welcomed = false;
    this.draining = false;
    this.pending = new Map(); // our requests: id → {resolve, reject} or a stream that we read
    this.calls = new Map(); // calls that we serve: id → call
    this.exports = new Map(); // our callables: number → function
    this.mirrors = new Map(); // key → entries
    this.handlers = new Map(); // subscription → function
    this.lastId = 0;
    this.lastExport = 0;
    this.coming = new Map(); // bodies in chunks: number → pieces
    this.lastLarge = 0;
    socket.on("data", (chunk) => this.arrived(chunk));
    socket.on("end", () => process.exit(3));
    socket.on("error", () => process.exit(3));
    this.send([KIND.HELLO, 0, { protocols: [1], agent: "node", python: "", codec: "pure", chunks: true, sources: true, batches: true, probe: probe() }]);
  }

  // --- frames

  send(fields, ...body) {
    if (body.length === 0) return this.socket.write(frame(fields));
    const refs = [];
    const numbers = [];
    try {
      const feeds = fields[0] === KIND.CALL && this.limits.sources > 0;
      const data = encode(body[0], (fn) => refs.push(this.reference(fn, numbers, feeds)) - 1);
      const whole = frame([...fields, refs], data);
      if (whole.length - 4 > this.limits.frame_bytes) return this.sendInChunks([...fields, refs], data);
      return this.socket.write(whole);
    } catch (problem) {
      for (const number of numbers) this.exports.delete(number);
      throw problem;
    }
  }

  /** The body first, piece by piece, then the frame that it belongs to. */
  sendInChunks(fields, data) {
    const { frame_bytes: frameBytes, value_bytes: most = 0 } = this.limits;
    const may = [KIND.CALL, KIND.RESULT, KIND.STREAM_ITEM, KIND.REQUEST].includes(fields[0]);
    if (!may || data.length > most) throw new Refused("value.too_large", "a value beyond the limit", "$");
    const number = ++this.lastLarge;
    const size = Math.min(60 * 1024, frameBytes >> 1);
    for (let at = 0; at < data.length; at += size) this.socket.write(frame([KIND.CHUNK, number, data.subarray(at, at + size)]));
    return this.socket.write(frame(fields, chunked(number, data.length)));
  }

  onChunk(number, piece) {
    if (!this.coming.has(number)) this.coming.set(number, []);
    this.coming.get(number).push(Buffer.from(piece));
  }

  /** Put a body that came in chunks in its place. */
  join(body) {
    const mark = inChunks(body.data);
    if (mark === null) return;
    const data = Buffer.concat(this.coming.get(mark.number) ?? []);
    this.coming.delete(mark.number);
    if (data.length !== mark.size) throw new ProtocolError("a body in chunks that did not come");
    body.data = data;
  }

  reference(fn, numbers, feeds) {
    if (this.exports.size >= 65536 || numbers.length >= NAMED) throw new Refused("value.too_large", "too many callables", "$");
    if (fn.held) return [HELD, fn.held];
    const stream = typeof fn !== "function";
    if (stream && !feeds) throw new Refused("value.unsupported", "a stream stands in arguments only", "$");
    this.exports.set(++this.lastExport, stream ? once(fn) : fn);
    numbers.push(this.lastExport);
    return [stream ? SOURCE : OWN, this.lastExport];
  }

  arrived(chunk) {
    try {
      for (const data of this.splitter.push(chunk)) this.dispatch(parse(data));
    } catch (problem) {
      process.stderr.write(`${problem.stack}\n`);
      process.exit(problem instanceof ProtocolError ? 4 : 1);
    }
  }

  dispatch([kind, id, ...fields]) {
    if (kind === KIND.WELCOME) return this.onWelcome(...fields);
    if (!this.welcomed) throw new ProtocolError("WELCOME comes first");
    if ([KIND.CALL, KIND.RESULT, KIND.STREAM_ITEM].includes(kind)) this.join(fields.at(-1));
    switch (kind) {
      case KIND.CALL: return this.onCall(id, ...fields);
      case KIND.RESULT: return this.onResult(id, ...fields);
      case KIND.ERROR: return this.settle(id, (waiting) => waiting.reject(new BusError(fields)));
      case KIND.CANCEL: return this.calls.get(id)?.cancel();
      case KIND.STREAM_ITEM: return this.pending.get(id)?.stream?.push(fields[0]);
      case KIND.STREAM_BATCH: return this.pending.get(id)?.stream?.pushAll(fields[0]);
      case KIND.STREAM_END: return this.onEnd(id, fields[0]);
      case KIND.STREAM_CREDIT: return this.calls.get(id)?.grant(fields[0]);
      case KIND.CHUNK: return this.onChunk(id, ...fields);
      case KIND.RUN_PHASE: return this.onPhase(id, ...fields);
      case KIND.SHUTDOWN: return this.onShutdown(fields[0]);
      case KIND.PING: return this.send([KIND.PONG, id, { threads: 1, stuck: 0, calls: this.calls.size }]);
      case KIND.MIRROR: return this.onMirror(...fields);
      case KIND.RELEASE: return fields[0].forEach((number) => this.exports.delete(number));
      case KIND.EVENT: return this.onEvent(...fields);
    }
  }

  // --- what we ask for

  /** Send a request and wait for its RESULT: a value, or an async iterator. */
  async ask(kind, fields, ...body) {
    if (this.pending.size >= this.limits.in_flight) throw new Refused("limit", "too many requests at once", "$");
    do this.lastId = (this.lastId % 0xffffffff) + 1;
    while (this.pending.has(this.lastId));
    const id = this.lastId;
    const answer = new Promise((resolve, reject) => this.pending.set(id, { id, resolve, reject, stream: null }));
    try {
      this.send([kind, id, ...fields], ...body);
    } catch (problem) {
      this.pending.delete(id);
      throw problem;
    }
    const { call } = serving.getStore() ?? {};
    call?.children.add(id);
    try {
      return await answer;
    } finally {
      call?.children.delete(id);
    }
  }

  call(target, args, { timeoutMs = 0, idempotencyKey = null, ctx = null } = {}) {
    const parent = ctx?.id ?? serving.getStore()?.call?.id ?? 0;
    return this.ask(KIND.CALL, [target, timeoutMs, parent, 0, idempotencyKey], args);
  }

  request(operation, args) {
    return this.ask(KIND.REQUEST, [operation, serving.getStore()?.call?.id ?? 0], args);
  }

  settle(id, how) {
    const waiting = this.pending.get(id);
    if (waiting === undefined) return; // given up in the meantime
    this.pending.delete(id);
    how(waiting);
  }

  /** CANCEL one of our requests: nobody waits for its answer any more. */
  giveUp(id) {
    this.send([KIND.CANCEL, id]);
    this.settle(id, ({ reject }) => reject(new BusError(CANCELLED)));
  }

  onResult(id, flags, body) {
    const waiting = this.pending.get(id);
    if (waiting && flags & STREAM) {
      waiting.stream = new Stream(this, id);
      waiting.resolve(waiting.stream);
      return;
    }
    if (!waiting) return this.release(body.refs.filter(([space]) => space === OWN).map(([, number]) => number));
    this.settle(id, ({ resolve, reject }) => {
      try {
        resolve(this.open(body));
      } catch (problem) {
        reject(problem);
      }
    });
  }

  onEnd(id, error) {
    this.settle(id, ({ stream }) => stream?.end(error === null ? null : new BusError(error)));
  }

  // --- values and references

  /** The value of a body. Its callables are given back when the call that is being served ends, if one is. */
  open(body, scope = serving.getStore()?.call?.scope ?? null) {
    const made = new Map();
    const come = (ref) => {
      if (!made.has(ref)) made.set(ref, this.comeIn(ref, scope));
      return made.get(ref);
    };
    try {
      return readBody(body, come);
    } finally {
      this.release(body.refs.filter((ref) => ref[0] !== HELD && !made.has(ref)).map(([, number]) => number));
    }
  }

  comeIn([space, number], scope) {
    if (space === HELD) {
      const fn = this.exports.get(number);
      if (fn === undefined) throw new Refused("dead_reference", "a callable that came home is gone", "$");
      return fn;
    }
    const released = () => this.release([number]);
    if (space === SOURCE) {
      scope?.add(released);
      return argument(() => this.call(number, null));
    }
    const fn = (args, options) => this.call(number, args, options);
    Object.assign(fn, { held: number, keep: () => (scope?.delete(released), fn), release: released });
    scope?.add(released);
    return fn;
  }

  release(numbers) {
    for (let at = 0; at < numbers.length; at += NAMED) this.send([KIND.RELEASE, 0, numbers.slice(at, at + NAMED)]);
  }

  // --- what we are asked for

  onCall(id, number, _deadlineMs, _flags, depth, _reenter, context, idempotency, body) {
    const refuse = (type, title, retryable) => id && this.send([KIND.ERROR, id, type, title, "", retryable, ""]);
    const fn = this.exports.get(number);
    if (fn === undefined) return refuse("dead_reference", "this callable is gone", false);
    if (this.draining) return refuse("shutting_down", "this Pack is being stopped", true);
    if (this.calls.size > this.limits.in_flight) return refuse("limit", "too many calls at once", true);
    const [trace, caller, chain, flow] = context;
    const ctx = { id, depth, trace, caller, chain, flow, idempotencyKey: idempotency };
    const call = new Served(this, id, ctx);
    if (id) this.calls.set(id, call);
    serving.run({ call }, () => call.run(fn, body));
  }

  onWelcome({ protocol, limits, paths, ...more }) {
    if (this.welcomed || protocol !== 1) throw new ProtocolError("WELCOME with protocol 1 comes once");
    this.welcomed = true;
    Object.assign(this.limits, limits);
    this.splitter.limitBytes = this.limits.frame_bytes;
    this.root = paths.pack;
    this.told = more;
  }

  async onPhase(id, component, file, context) {
    const began = process.hrtime.bigint();
    const registered = [];
    let error = null;
    try {
      const module = load(path.join(this.root, component.dir, file.replace(/\.py$/, ".js")));
      await module.run(new Context(this, context, registered));
    } catch (problem) {
      const missing = problem.code === "MODULE_NOT_FOUND" && problem.requireStack.length <= 1;
      error = missing ? ["missing_file", "the component's file can't be read", "", false, ""] : errorFields(problem);
    }
    const duration_us = Number((process.hrtime.bigint() - began) / 1000n);
    this.send([KIND.PHASE_DONE, id, { ok: error === null, error, registered, duration_us, asynchronous: true }]);
  }

  onShutdown(graceMs) {
    this.draining = true;
    setTimeout(() => process.exit(0), graceMs);
    this.leaveIfDone();
  }

  leaveIfDone() {
    if (this.draining && this.calls.size === 0) this.socket.end(() => process.exit(0));
  }

  // --- registry and events

  onMirror(key, entries, body) {
    if (entries.length === 0) return this.mirrors.delete(key);
    // the numbers in a MIRROR live as long as the registration: nothing is to be released
    const values = readBody(body, (ref) => (ref[0] === HELD ? this.exports.get(ref[1]) : this.comeIn(ref, null)));
    this.mirrors.set(key, entries.map((entry, i) => ({ ...entry, value: values[i] })));
  }

  lookUp(key, strategy) {
    const entries = this.mirrors.get(key) ?? [];
    if (strategy === "all") return entries.map((entry) => entry.value);
    const owners = entries.filter((entry) => entry.owner);
    const entry = strategy === "first" ? owners[0] : owners.at(-1);
    if (entry === undefined) return null;
    if (strategy === "last" && entry.callable && !entry.mine) return (args, options) => this.call(key, args, options);
    return entry.value;
  }

  onEvent(subscription, event, body) {
    const handler = this.handlers.get(subscription);
    if (handler === undefined) return this.open(body, null);
    Promise.resolve()
      .then(() => handler(this.open(body, null), event))
      .catch((problem) => this.log(40, "log:events", String(problem.stack)));
  }

  log(level, source, text) {
    for (let at = 0; at < text.length; at += 8000) this.send([KIND.LOG, 0, level, source, text.slice(at, at + 8000)]);
  }
}

/** One call that we serve. It is answered exactly once. */
class Served {
  constructor(agent, id, ctx) {
    this.agent = agent;
    this.id = id;
    this.ctx = ctx;
    this.scope = new Set();
    this.children = new Set();
    this.credit = agent.limits.stream_credit;
    this.streaming = false;
    this.cancelled = false;
    this.answered = false;
    this.wake = () => {};
    ctx.cancelled = () => this.cancelled;
  }

  async run(fn, body) {
    try {
      let result = fn(this.agent.open(body, this.scope), this.ctx);
      if (typeof result?.then === "function") result = await result;
      if (typeof result?.next === "function" || result?.[Symbol.asyncIterator]) return await this.stream(result);
      this.answer([KIND.RESULT, this.id, 0], result);
    } catch (problem) {
      this.fail(problem);
    }
  }

  answer(fields, ...body) {
    if (this.answered) return;
    if (this.id) this.agent.send(fields, ...body);
    this.answered = true;
    this.agent.calls.delete(this.id);
    for (const released of this.scope) released();
    this.agent.leaveIfDone();
  }

  fail(problem) {
    const fields = errorFields(problem);
    if (this.streaming) this.answer([KIND.STREAM_END, this.id, fields]);
    else this.answer([KIND.ERROR, this.id, ...fields]);
  }

  async stream(iterator) {
    if (this.answered) return;
    this.agent.send([KIND.RESULT, this.id, STREAM], null);
    this.streaming = true;
    for await (const item of iterator) {
      while (this.credit === 0 && !this.cancelled) await new Promise((resolve) => (this.wake = resolve));
      if (this.cancelled) break;
      this.credit -= 1;
      this.agent.send([KIND.STREAM_ITEM, this.id], item);
      if (this.credit > 0) await new Promise(setImmediate); // a CANCEL may be read in between
      if (this.cancelled) break;
    }
    this.answer([KIND.STREAM_END, this.id, this.cancelled ? CANCELLED : null]);
  }

  grant(n) {
    this.credit += n;
    this.wake();
  }

  cancel() {
    this.cancelled = true;
    const waiting = [...this.children];
    for (const id of waiting) this.agent.giveUp(id);
    if (this.streaming) this.wake();
    else if (waiting.length === 0) this.fail(new Cancelled()); // else what it waits for has ended, and it goes on
  }
}

/** A stream that we read: `for await`. Leaving early cancels the producer. */
class Stream {
  constructor(agent, id) {
    Object.assign(this, { agent, id, items: [], read: 0, ended: false, error: null, wake: () => {} });
  }

  push(body) {
    this.items.push(body);
    this.wake();
  }

  /** Several items in one frame. Where they can't be decoded, that ends the reading. */
  pushAll(body) {
    let values;
    try {
      values = this.agent.open(body);
    } catch (problem) {
      this.return();
      return this.end(new BusError(errorFields(problem)));
    }
    if (!Array.isArray(values) || values.length === 0) throw new ProtocolError("a batch is an array of items");
    for (const value of values) this.items.push({ value });
    this.wake();
  }

  end(error) {
    this.ended = true;
    this.error = error;
    this.wake();
  }

  reject(error) {
    this.end(error);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    while (this.items.length === 0 && !this.ended) await new Promise((resolve) => (this.wake = resolve));
    if (this.items.length) {
      const body = this.items.shift();
      this.read += 1;
      if (this.read * 2 >= this.agent.limits.stream_credit && !this.ended) {
        this.agent.send([KIND.STREAM_CREDIT, this.id, this.read]);
        this.read = 0;
      }
      return { done: false, value: "value" in body ? body.value : this.agent.open(body) };
    }
    if (this.error) throw this.error;
    return { done: true, value: undefined };
  }

  async return() {
    if (!this.ended) {
      this.ended = true;
      this.agent.pending.delete(this.id);
      this.agent.send([KIND.CANCEL, this.id]);
    }
    return { done: true, value: undefined };
  }
}

/** What the host calls to read a stream that we passed. */
function once(iterator) {
  let left = iterator;
  return () => {
    const items = left;
    left = null;
    if (items === null) throw new Refused("dead_reference", "a stream is read once", "$");
    return items;
  };
}

/** A stream in the arguments of a call that we serve: nothing of it is made before it is read. */
async function* argument(open) {
  yield* await open();
}

/** What a component's `run` gets. */
class Context {
  constructor(agent, told, registered) {
    this.told = told;
    this.log = (level, text) => agent.log(level, "log:pack", text);
    this.welcome = agent.told;
    this.registry = {
      register: async (key, value, meta = null, options = {}) => {
        const { schemas = null, ...more } = options;
        const given = { if_absent: false, ttl_ms: null, override: false, source: null, ...more };
        const number = await agent.ask(KIND.REGISTER, [key, given, meta, schemas], value);
        if (number !== false) registered.push(key);
        return number;
      },
      unregister: (numbers) => agent.ask(KIND.UNREGISTER, [numbers]),
      get: (key, strategy = "last") => agent.lookUp(key, strategy),
      keys: () => [...agent.mirrors.keys()],
    };
    this.events = {
      subscribe: async (topic, handler) => {
        const number = await agent.ask(KIND.SUBSCRIBE, [topic]);
        agent.handlers.set(number, handler);
        return number;
      },
      unsubscribe: (number) => (agent.handlers.delete(number), agent.ask(KIND.UNSUBSCRIBE, [number])),
      publish: (topic, payload) => agent.ask(KIND.PUBLISH, [topic], payload),
    };
    this.request = (operation, args) => agent.request(operation, args);
    this.tell = (operation, args) => void agent.send([KIND.REQUEST, 0, operation, 0], args); // wants no answer
  }
}

function load(file) {
  return require(path.resolve(file));
}

/** What the sandbox looks like from inside, as far as this agent looks. */
function probe() {
  return {
    uid: process.getuid(), gid: process.getgid(), groups: process.getgroups(), cap_eff: "", cap_bnd: "", no_new_privs: 0, seccomp: 0,
    pid_count: 0, interfaces: [], writable: [], env_names: Object.keys(process.env), canaries: [], landlock: 0, rlimits: {},
    python: "", kernel: "",
  };
}

function main([how, where]) {
  if (how === "--fd") return new Agent(new net.Socket({ fd: Number(where), readable: true, writable: true }));
  if (how === "--socket") return new Agent(net.connect(where));
  process.stderr.write("usage: node agent.js --fd N | --socket PATH\n");
  return process.exit(64);
}

if (require.main === module) main(process.argv.slice(2));

module.exports = { Agent, BusError };
