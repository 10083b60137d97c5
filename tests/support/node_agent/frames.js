// Frames of the bus as an agent sees them: splitting the stream, and the header of each kind that a host may send.
"use strict";

const { Ext, Malformed, Reader, decode, encode } = require("./msgpack.js");

const KIND = {
  CALL: 1, RESULT: 2, ERROR: 3, CANCEL: 4, STREAM_ITEM: 5, STREAM_END: 6, STREAM_CREDIT: 7, CHUNK: 8, STREAM_BATCH: 9, HELLO: 16, WELCOME: 17,
  RUN_PHASE: 18, PHASE_DONE: 19, SHUTDOWN: 20, PING: 21, PONG: 22, LOG: 23, REGISTER: 32, UNREGISTER: 33, MIRROR: 34,
  RELEASE: 37, SUBSCRIBE: 48, UNSUBSCRIBE: 49, PUBLISH: 50, EVENT: 51, REQUEST: 64,
};

/** The bytes are no frame of the protocol: the connection ends. */
class ProtocolError extends Error {}

const u32 = (v) => Number.isInteger(v) && v >= 0 && v <= 0xffffffff;
const text = (v) => typeof v === "string";
const bool = (v) => typeof v === "boolean";
const map = (v) => typeof v === "object" && v !== null && !Array.isArray(v) && !(v instanceof Uint8Array) && !(v instanceof Ext);
const listOf = (test) => (v) => Array.isArray(v) && v.every(test);
const orNil = (test) => (v) => v === null || test(v);
const tuple = (...tests) => (v) => Array.isArray(v) && v.length === tests.length && tests.every((test, i) => test(v[i]));
const refs = listOf(tuple((v) => v === 0 || v === 1, u32));
const callRefs = listOf(tuple((v) => v === 0 || v === 1 || v === 2, u32)); // 2: a stream in the arguments
const error = tuple(text, text, text, bool, text);
const context = tuple(text, text, listOf(text), orNil(text));

// fields after [kind, id of what a host sends; `body` stands for refs and body
const body = Symbol("body");
const FROM_HOST = {
  [KIND.CALL]: [u32, u32, u32, u32, u32, context, orNil(text), body],
  [KIND.RESULT]: [u32, body],
  [KIND.ERROR]: [text, text, text, bool, text],
  [KIND.CANCEL]: [],
  [KIND.STREAM_ITEM]: [body],
  [KIND.STREAM_BATCH]: [body],
  [KIND.STREAM_END]: [orNil(error)],
  [KIND.STREAM_CREDIT]: [u32],
  [KIND.CHUNK]: [(v) => v instanceof Uint8Array],
  [KIND.WELCOME]: [map],
  [KIND.RUN_PHASE]: [map, text, map],
  [KIND.SHUTDOWN]: [u32],
  [KIND.PING]: [],
  [KIND.MIRROR]: [text, listOf(map), body],
  [KIND.RELEASE]: [listOf(u32)],
  [KIND.EVENT]: [u32, map, body],
};

/** A body as it came, with the references that it may point to. */
class Body {
  constructor(data, references) {
    this.data = data;
    this.refs = references;
  }
}

/** `[kind, id, …]` of one frame without its length; a body stays a Body. Raises ProtocolError, nothing else. */
function parse(data) {
  try {
    const reader = new Reader(data);
    const size = reader.arrayHead();
    const kind = reader.value();
    const shape = typeof kind === "number" ? FROM_HOST[kind] : undefined;
    if (shape === undefined) throw new ProtocolError(`kind ${String(kind)} is none that a host sends`);
    const fields = [kind, reader.value()];
    if (!u32(fields[1])) throw new ProtocolError("an id is an unsigned integer below 2^32");
    if (size !== 2 + shape.length + (shape.at(-1) === body ? 1 : 0)) throw new ProtocolError(`kind ${kind} with ${size} fields`);
    for (const test of shape) {
      const value = reader.value();
      if (!(test === body ? (kind === KIND.CALL ? callRefs : refs) : test)(value)) throw new ProtocolError(`kind ${kind}: field ${fields.length} is of the wrong type`);
      fields.push(test === body ? new Body(data.subarray(reader.at), value) : value);
      if (test === body) reader.at = data.length;
    }
    if (reader.at !== data.length) throw new ProtocolError("bytes behind the array");
    return fields;
  } catch (problem) {
    if (problem instanceof Malformed) throw new ProtocolError(problem.message);
    throw problem;
  }
}

/** `{number, size}` of a body that came in chunks, else null. */
function inChunks(data) {
  if (data.length !== 10 || data[0] !== 0xd7 || data[1] !== 4) return null;
  const view = Buffer.from(data);
  return { number: view.readUInt32LE(2), size: view.readUInt32LE(6) };
}

/** The body that says so. */
function chunked(number, size) {
  const mark = Buffer.from([0xd7, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
  mark.writeUInt32LE(number, 2);
  mark.writeUInt32LE(size, 6);
  return mark;
}

/** A body's value. `come(ref)` makes a function of a reference. Raises Malformed. */
function readBody(raw, come) {
  return revive(decode(raw.data), raw.refs, come);
}

/** MessagePack's timestamp: seconds, or nanoseconds and seconds in 8 or 12 bytes. */
function isMoment(data) {
  if (data.length === 4) return true;
  if (data.length !== 8 && data.length !== 12) return false;
  const first = Buffer.from(data).readUInt32BE(0);
  return (data.length === 8 ? first >>> 2 : first) <= 999999999;
}

function revive(value, references, come) {
  if (value instanceof Ext) {
    if (value.code === 1) {
      const ref = references[decode(value.data)];
      if (ref === undefined) throw new Malformed("a reference to nothing");
      return come(ref);
    }
    if (value.code === -1 && isMoment(value.data)) return value;
    if (value.code === 2 && /^\d{4}-\d\d-\d\d$/.test(Buffer.from(value.data).toString("latin1"))) return value;
    throw new Malformed(`extension ${value.code} means nothing, or not with this content`);
  }
  if (Array.isArray(value)) return value.map((item) => revive(item, references, come));
  if (value instanceof Map) return new Map([...value].map(([key, item]) => [key, revive(item, references, come)]));
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  for (const key of Object.keys(value)) value[key] = revive(value[key], references, come);
  return value;
}

/** Cuts a stream into frames. */
class Splitter {
  constructor(limitBytes) {
    this.limitBytes = limitBytes;
    this.rest = Buffer.alloc(0);
  }

  /** The frames that `chunk` completes, without their lengths. */
  *push(chunk) {
    this.rest = this.rest.length ? Buffer.concat([this.rest, chunk]) : chunk;
    while (this.rest.length >= 4) {
      const size = this.rest.readUInt32LE(0);
      if (size === 0 || size > this.limitBytes) throw new ProtocolError(`a frame of ${size} bytes`);
      if (this.rest.length < 4 + size) return;
      const frame = this.rest.subarray(4, 4 + size);
      this.rest = this.rest.subarray(4 + size);
      yield frame;
    }
  }
}

/** A frame on the wire; `bodyBytes` is a body that was encoded apart. */
function frame(fields, bodyBytes = null) {
  const parts = [...fields.map((field) => encode(field)), ...(bodyBytes ? [bodyBytes] : [])];
  const count = parts.length;
  const array = count < 16 ? Buffer.from([0x90 + count]) : Buffer.from([0xdc, count >> 8, count & 0xff]);
  const data = Buffer.concat([array, ...parts]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(data.length);
  return Buffer.concat([length, data]);
}

module.exports = { Body, KIND, ProtocolError, Splitter, chunked, frame, inChunks, parse, readBody };
