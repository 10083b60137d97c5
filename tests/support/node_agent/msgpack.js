// MessagePack in plain JavaScript, as the bus needs it: written from docs/reference/protocol.md and the MessagePack
// specification alone, without a library, so that it shares nothing with either end of Rumi.
//
// Integers are numbers while they are exact and BigInt beyond. Maps whose keys are all text are objects without a
// prototype, others are Map. Extensions are Ext. Sizes that the bytes announce are believed only as far as bytes follow.
"use strict";

const MAX_DEPTH = 64; // what a sender may nest
const READ_DEPTH = 512; // what a reader follows before it calls a value malformed

class Ext {
  constructor(code, data) {
    this.code = code;
    this.data = data;
  }
}

class Malformed extends Error {}

/** A value that the bus does not carry; `type` is the error's type on the bus. */
class Refused extends Error {
  constructor(type, message, path) {
    super(`${message} at ${path}`);
    this.type = type;
  }
}

const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class Reader {
  constructor(data, at = 0) {
    this.data = data;
    this.at = at;
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  take(size) {
    const end = this.at + size;
    if (end > this.data.length) throw new Malformed("the bytes end in the middle of a value");
    const part = this.data.subarray(this.at, end);
    this.at = end;
    return part;
  }

  uint(size) {
    const at = this.at;
    this.take(size);
    if (size === 1) return this.view.getUint8(at);
    if (size === 2) return this.view.getUint16(at);
    if (size === 4) return this.view.getUint32(at);
    return exact(this.view.getBigUint64(at));
  }

  int(size) {
    const at = this.at;
    this.take(size);
    if (size === 1) return this.view.getInt8(at);
    if (size === 2) return this.view.getInt16(at);
    if (size === 4) return this.view.getInt32(at);
    return exact(this.view.getBigInt64(at));
  }

  float(size) {
    const at = this.at;
    this.take(size);
    return size === 4 ? this.view.getFloat32(at) : this.view.getFloat64(at);
  }

  /** The number of elements of the array that begins here. */
  arrayHead() {
    const code = this.uint(1);
    if (code >= 0x90 && code <= 0x9f) return code & 0x0f;
    if (code === 0xdc) return this.uint(2);
    if (code === 0xdd) return this.uint(4);
    throw new Malformed("an array is expected");
  }

  value(depth = 0) {
    if (depth > READ_DEPTH) throw new Malformed("nested too deep");
    const code = this.uint(1);
    if (code < 0x80) return code;
    if (code >= 0xe0) return code - 256;
    if (code < 0x90) return this.map(code & 0x0f, depth);
    if (code < 0xa0) return this.array(code & 0x0f, depth);
    if (code < 0xc0) return this.string(code & 0x1f);
    if (code >= 0xd4 && code <= 0xd8) return this.ext(1 << (code - 0xd4));
    switch (code) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.take(this.uint(1 << (code - 0xc4)));
      case 0xc7: case 0xc8: case 0xc9: return this.ext(this.uint(1 << (code - 0xc7)));
      case 0xca: return this.float(4);
      case 0xcb: return this.float(8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return this.uint(1 << (code - 0xcc));
      case 0xd0: case 0xd1: case 0xd2: case 0xd3: return this.int(1 << (code - 0xd0));
      case 0xd9: case 0xda: case 0xdb: return this.string(this.uint(1 << (code - 0xd9)));
      case 0xdc: case 0xdd: return this.array(this.uint(2 << (code - 0xdc)), depth);
      case 0xde: case 0xdf: return this.map(this.uint(2 << (code - 0xde)), depth);
      default: throw new Malformed(`byte ${code} begins no value`);
    }
  }

  string(size) {
    try {
      return text.decode(this.take(size));
    } catch (error) {
      throw error instanceof Malformed ? error : new Malformed("a text is not UTF-8");
    }
  }

  ext(size) {
    const code = this.int(1);
    return new Ext(code, this.take(size));
  }

  array(size, depth) {
    if (size > this.data.length - this.at) throw new Malformed("an array announces more than there is");
    const out = [];
    for (let i = 0; i < size; i++) out.push(this.value(depth + 1));
    return out;
  }

  map(size, depth) {
    if (size * 2 > this.data.length - this.at) throw new Malformed("a map announces more than there is");
    const pairs = [];
    for (let i = 0; i < size; i++) {
      const key = this.value(depth + 1);
      if (Array.isArray(key) || key instanceof Map || isPlain(key)) throw new Malformed("a map's key is no scalar");
      pairs.push([key instanceof Uint8Array ? Buffer.from(key) : key, this.value(depth + 1)]);
    }
    if (!pairs.every(([key]) => typeof key === "string")) return new Map(pairs);
    const out = Object.create(null);
    for (const [key, value] of pairs) out[key] = value;
    return out;
  }
}

function exact(big) {
  const number = Number(big);
  return Number.isSafeInteger(number) ? number : big;
}

function isPlain(value) {
  return typeof value === "object" && value !== null && !(value instanceof Uint8Array) && !(value instanceof Ext);
}

/** The one value in `data`; anything else is Malformed. */
function decode(data) {
  const reader = new Reader(data);
  const value = reader.value();
  if (reader.at !== data.length) throw new Malformed("bytes behind the value");
  return value;
}

function head(size, fix, fixLimit, codes) {
  if (fix !== null && size < fixLimit) return Buffer.from([fix + size]);
  const out = Buffer.alloc(5);
  if (codes[0] !== null && size < 0x100) return out.writeUInt8(codes[0], 0), out.writeUInt8(size, 1), out.subarray(0, 2);
  if (size < 0x10000) return out.writeUInt8(codes[1], 0), out.writeUInt16BE(size, 1), out.subarray(0, 3);
  out.writeUInt8(codes[2], 0);
  out.writeUInt32BE(size, 1);
  return out;
}

function writeInt(big, path) {
  if (big >= 2n ** 64n || big < -(2n ** 63n)) throw new Refused("value.too_large", "an integer beyond 64 bits", path);
  if (big >= -32n && big < 128n) return Buffer.from([Number(big) & 0xff]);
  const out = Buffer.alloc(9);
  const sizes = big >= 0n ? [0xcc, 8n, 16n, 32n] : [0xd0, 7n, 15n, 31n];
  const step = [1n, 2n, 3n].findIndex((_, i) => (big >= 0n ? big < 1n << sizes[i + 1] : big >= -(1n << sizes[i + 1])));
  const width = step < 0 ? 8 : 1 << step;
  out.writeUInt8(sizes[0] + Math.log2(width), 0);
  if (width === 8) big >= 0n ? out.writeBigUInt64BE(big, 1) : out.writeBigInt64BE(big, 1);
  else big >= 0n ? out.writeUIntBE(Number(big), 1, width) : out.writeIntBE(Number(big), 1, width);
  return out.subarray(0, 1 + width);
}

/** MessagePack of `value`. `callable(fn)` gives the index into `refs` that stands for a function. */
function encode(value, callable = null, levels = MAX_DEPTH) {
  const parts = [];
  write(value, parts, callable, levels, "$");
  return Buffer.concat(parts);
}

function write(value, parts, callable, left, path) {
  if (value === null || value === undefined) return parts.push(Buffer.from([0xc0]));
  if (value === true || value === false) return parts.push(Buffer.from([value ? 0xc3 : 0xc2]));
  if (typeof value === "bigint") return parts.push(writeInt(value, path));
  if (typeof value === "number") {
    if (Number.isSafeInteger(value) && !Object.is(value, -0)) return parts.push(writeInt(BigInt(value), path));
    const out = Buffer.alloc(9, 0xcb);
    out.writeDoubleBE(value, 1);
    return parts.push(out);
  }
  if (typeof value === "string") {
    const bytes = Buffer.from(value, "utf-8");
    return parts.push(head(bytes.length, 0xa0, 32, [0xd9, 0xda, 0xdb]), bytes);
  }
  if (value instanceof Uint8Array) return parts.push(head(value.length, null, 0, [0xc4, 0xc5, 0xc6]), value);
  if (value instanceof Ext) return parts.push(extHead(value), value.data);
  if ((typeof value === "function" || isStream(value)) && callable !== null) return write(new Ext(1, encode(callable(value))), parts, null, left, path);
  if (typeof value === "object" && left <= 0) {
    throw new Refused("value.too_deep", `nesting deeper than ${MAX_DEPTH}`, path.slice(0, 200));
  }
  if (Array.isArray(value)) {
    parts.push(head(value.length, 0x90, 16, [null, 0xdc, 0xdd]));
    value.forEach((item, i) => write(item, parts, callable, left - 1, `${path}[${i}]`));
    return parts.length;
  }
  const plain = typeof value === "object" && [null, Object.prototype].includes(Object.getPrototypeOf(value));
  if (!(value instanceof Map) && !plain) {
    throw new Refused("value.unsupported", `a value of type ${value?.constructor?.name ?? typeof value}`, path.slice(0, 200));
  }
  const pairs = value instanceof Map ? [...value] : Object.entries(value);
  parts.push(head(pairs.length, 0x80, 16, [null, 0xde, 0xdf]));
  for (const [key, item] of pairs) {
    write(key, parts, null, left - 1, path);
    write(item, parts, callable, left - 1, `${path}.${String(key)}`);
  }
  return parts.length;
}

/** An iterator of either kind; a plain object that has a `next` is none. */
function isStream(value) {
  return typeof value === "object" && typeof value.next === "function" && Boolean(value[Symbol.iterator] ?? value[Symbol.asyncIterator]);
}

function extHead(ext) {
  const power = [1, 2, 4, 8, 16].indexOf(ext.data.length);
  const code = Buffer.from([ext.code & 0xff]);
  if (power >= 0) return Buffer.concat([Buffer.from([0xd4 + power]), code]);
  return Buffer.concat([head(ext.data.length, null, 0, [0xc7, 0xc8, 0xc9]), code]);
}

module.exports = { Ext, Malformed, Reader, Refused, decode, encode };
