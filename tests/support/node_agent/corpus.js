// Holds tests/vectors against this implementation: `node corpus.js FOLDER` prints what does not agree, one line each.
"use strict";

const { readFileSync } = require("node:fs");
const path = require("node:path");

const { Ext, decode, encode } = require("./msgpack.js");
const { KIND, ProtocolError, Splitter, parse } = require("./frames.js");

const folder = process.argv[2];
const load = (name) => JSON.parse(readFileSync(path.join(folder, `${name}.json`), "utf-8"), exactly);
const problems = [];

/** JSON.parse's reviver: integers that a number can't hold are read from the text. */
function exactly(_key, value, { source } = {}) {
  if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
  return source && /^-?\d+$/.test(source) ? BigInt(source) : value;
}

/** The value behind the tags of tests/support/vectors.py. */
function untag(value) {
  if (Array.isArray(value)) return value.map(untag);
  if (typeof value !== "object" || value === null) return value;
  if ("$bytes" in value) return Buffer.from(value.$bytes, "hex");
  if ("$ext" in value) return new Ext(value.$ext[0], Buffer.from(value.$ext[1], "hex"));
  if ("$map" in value) return new Map(value.$map.map((pair) => pair.map(untag)));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, untag(item)]));
}

const LEVELS = 500; // some frames show what a sender may not nest

function check(name, value, bytes) {
  const written = Buffer.from(encode(untag(value), null, LEVELS)).toString("hex");
  if (written !== bytes.toString("hex")) problems.push(`${name}: writes ${written}`);
  const again = Buffer.from(encode(decode(bytes), null, LEVELS)).toString("hex");
  if (again !== bytes.toString("hex")) problems.push(`${name}: reads it as what it writes as ${again}`);
}

function whole(bytes) {
  const frames = [...new Splitter(1024 * 1024).push(bytes)];
  if (frames.length !== 1) throw new ProtocolError("half a frame");
  return frames[0];
}

function checkFrame(name, entry) {
  const bytes = Buffer.from(entry.hex, "hex");
  check(name, entry.value, whole(bytes));
  if (KIND[entry.kind] !== entry.value[0]) problems.push(`${name}: ${entry.kind} is another kind here`);
  if (entry.from === "host" && !entry.any) parse(whole(bytes));
}

let count = 0;
for (const entry of load("values")) {
  const exactHere = entry.value === null || typeof entry.value !== "number" || Number.isSafeInteger(entry.value) || !Number.isInteger(entry.value);
  // a runtime whose JSON.parse tells no source can't read the two largest integers from the file, only from their bytes
  if (exactHere) check(entry.name, entry.value, Buffer.from(entry.hex, "hex"));
  else if (Buffer.from(encode(decode(Buffer.from(entry.hex, "hex")))).toString("hex") !== entry.hex) problems.push(entry.name);
  count += 1;
}
// what goes over the second socket has no frame; it can't be received here
for (const { name, frames } of load("transcripts")) for (const entry of frames) if (entry.hex) (checkFrame(name, entry), count++);
for (const { name, steps } of load("host")) {
  for (const entry of steps.flatMap((step) => step.frames ?? (step.hex ? [step] : []))) (checkFrame(name, entry), count++);
}
for (const entry of load("refused")) {
  if (entry.by !== "agent") continue;
  count += 1;
  const bytes = Buffer.from(entry.hex, "hex");
  if (entry.outcome !== "protocol") continue; // a body: fails its call, which the conversations show
  try {
    const fields = parse(whole(bytes));
    // WELCOME is refused for coming twice, by the agent and not by its parser
    if (!entry.name.startsWith("WELCOME")) problems.push(`${entry.name}: accepted as ${JSON.stringify(fields)}`);
  } catch (problem) {
    if (!(problem instanceof ProtocolError)) problems.push(`${entry.name}: ${problem.stack}`);
  }
}
for (const problem of problems) process.stdout.write(`${problem}\n`);
process.stderr.write(`${count} entries, ${problems.length} problems\n`);
process.exitCode = problems.length ? 1 : 0;
