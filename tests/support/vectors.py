"""The transcripts of ``tests/vectors``: what both ends of the bus must accept, send and refuse, byte for byte.

``transcripts.json``: named conversations. ``pack`` holds the Pack's files; ``frames`` the frames in order, each ``from``
``host`` or ``agent``, as ``value`` (JSON with tags, below) and ``hex`` (the frame on the wire, its length included).
``any`` lists paths into the value whose content differs from run to run (times, versions): they are not compared.
``values.json``: single values and their MessagePack. ``refused.json``: what must end the connection, or one call.

Tags in JSON: ``{"$bytes": hex}``, ``{"$ext": [code, hex]}``, ``{"$map": [[key, value], ...]}`` (keys that are no text).

``python -m tests.support.vectors`` writes them anew from the conversations below, with the real agent as one end.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import msgpack

VECTORS = Path(__file__).parents[1] / "vectors"
AGENT = Path(__file__).parents[2] / "docker" / "core" / "runtime" / "container_agent.py"
KINDS = {
    1: "CALL", 2: "RESULT", 3: "ERROR", 4: "CANCEL", 5: "STREAM_ITEM", 6: "STREAM_END", 7: "STREAM_CREDIT", 16: "HELLO",
    17: "WELCOME", 18: "RUN_PHASE", 19: "PHASE_DONE", 20: "SHUTDOWN", 21: "PING", 22: "PONG", 23: "LOG", 32: "REGISTER",
    33: "UNREGISTER", 34: "MIRROR", 37: "RELEASE", 48: "SUBSCRIBE", 49: "UNSUBSCRIBE", 50: "PUBLISH", 51: "EVENT",
    64: "REQUEST",
}  # fmt: skip


def load(name: str) -> list[dict[str, Any]]:
    """The entries of one file."""
    entries: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return entries


def to_json(value: Any) -> Any:
    """A decoded value with tags."""
    if isinstance(value, msgpack.ExtType):
        return {"$ext": [value.code, value.data.hex()]}
    if isinstance(value, msgpack.Timestamp):
        return {"$ext": [-1, value.to_bytes().hex()]}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(value: Any) -> Any:
    """The value behind the tags."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$bytes"}:
        return bytes.fromhex(value["$bytes"])
    if set(value) == {"$map"}:
        return {from_json(key): from_json(item) for key, item in value["$map"]}
    if set(value) == {"$ext"}:
        code, data = value["$ext"]
        raw = bytes.fromhex(data)
        return msgpack.Timestamp.from_bytes(raw) if code == -1 else msgpack.ExtType(code, raw)
    return {key: from_json(item) for key, item in value.items()}


def encode(fields: Any) -> bytes:
    """A frame on the wire."""
    data: bytes = msgpack.packb(fields)
    return len(data).to_bytes(4, "little") + data


def masked(value: Any, paths: list[list[Any]]) -> Any:
    """``value`` (JSON) with the content at ``paths`` replaced, for comparing."""
    out = json.loads(json.dumps(value))
    for path in paths:
        at = out
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = "any"
    return out


class Wire:
    """A real agent, frame by frame."""

    def __init__(self, pack: dict[str, str], agent: Path = AGENT) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        for name, text in pack.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        command = [sys.executable, "-I", "-S", str(agent), "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()
        self.process.wait(10)
        self.folder.cleanup()

    def receive(self) -> Any:
        """One frame's fields."""
        size = int.from_bytes(self._exactly(4), "little")
        return msgpack.unpackb(self._exactly(size), strict_map_key=False)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, fields: Any) -> None:
        """One frame. ``/pack`` in WELCOME becomes the folder that stands in for it."""
        if fields[0] == 17:
            fields = [*fields[:2], {**fields[2], "paths": {"pack": str(self.root)}}]
        self.sock.sendall(encode(fields))


# fmt: off
LIMITS = {"frame_bytes": 1048576, "in_flight": 1024, "depth": 32, "deadline_ms": 30000, "stream_credit": 2, "threads": 48}
WELCOME = [17, 0, {"protocol": 1, "pack_id": "alpha", "generation": 1, "limits": LIMITS, "paths": {"pack": "/pack"}, "lock": {}}]
COMPONENT = {"full_id": "alpha:service:one", "type": "service", "id": "one", "pack_id": "alpha", "dir": "backend/components/one"}
RUN = [18, 1, COMPONENT, "setup.py", {"phase": "setup", "ts": 1.5, "mounts": {}, "register": None}]
NO_CONTEXT: list[Any] = ["", "kernel", [], None]
REF = msgpack.ExtType(1, b"\x00")
AGENT_FRAME = "agent"


def _call(number: int, ref: int, body: Any, refs: Any = (), *, depth: int = 0, reenter: int = 0) -> list[Any]:
    return [1, number, ref, 30000, 0, depth, reenter, NO_CONTEXT, None, list(refs), body]


def _mirror(key: str, number: int) -> list[Any]:
    entry = {
        "owner": True, "pack": "beta", "ts": 2.5, "meta": {}, "callable": True, "input": None, "output": None, "mine": False,
        "registration": 9,
    }  # fmt: skip
    return [34, 0, key, [entry], [[0, number]], [REF]]


CONVERSATIONS: dict[str, tuple[str, str, list[Any]]] = {
    "life": (
        "HELLO, WELCOME, a ping, the orderly end.",
        "",
        [AGENT_FRAME, WELCOME, [21, 5], AGENT_FRAME, [20, 0, 1000]],
    ),
    "register_and_call": (
        "A component registers a handler; the host calls it, and gets a value, then a typed error.",
        """
        def hello_handler(args, ctx):
            return {"message": f"Hello, {args['name']}!"}
        def run(context):
            context["interface_registry"].register("service.hello", hello_handler, {"since": "1.0"})
        """,
        [
            AGENT_FRAME, WELCOME, RUN, AGENT_FRAME, [2, 1, 0, [], 11], AGENT_FRAME,
            _call(2, 1, {"name": "Bob"}), AGENT_FRAME, _call(3, 1, {}), AGENT_FRAME, _call(4, 77, None), AGENT_FRAME,
        ],
    ),
    "stream": (
        "A generator streams within its credit of 2, goes on when it gets more, and ends on CANCEL.",
        """
        def count(args, ctx):
            for number in range(args):
                yield number
        def run(context):
            context["interface_registry"].register("count", count)
        """,
        [
            AGENT_FRAME, WELCOME, RUN, AGENT_FRAME, [2, 1, 0, [], 11], AGENT_FRAME,
            _call(2, 1, 3), AGENT_FRAME, AGENT_FRAME, AGENT_FRAME, [7, 2, 2], AGENT_FRAME, AGENT_FRAME,
            _call(3, 1, 1000000), AGENT_FRAME, AGENT_FRAME, AGENT_FRAME, [4, 3], AGENT_FRAME,
        ],
    ),
    "call_another_pack": (
        "The mirror shows another Pack's callable; a handler calls it by key, is re-entered on its stack, and answers.",
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("outer", lambda args, ctx: ["outer", ir.get("beta.work")(args)])
            ir.register("inner", lambda args, ctx: ["inner", args])
        """,
        [
            AGENT_FRAME, WELCOME, _mirror("beta.work", 501), RUN, AGENT_FRAME, [2, 1, 0, [], 11], AGENT_FRAME,
            [2, 2, 0, [], 12], AGENT_FRAME,
            _call(2, 1, "x"), AGENT_FRAME, _call(3, 2, "y", depth=2, reenter=3), AGENT_FRAME, [2, 3, 0, [], "z"], AGENT_FRAME,
            _call(4, 1, "x"), AGENT_FRAME, [3, 4, "missing", "nobody provides it", "", False, ""], AGENT_FRAME,
        ],
    ),
    "references": (
        "A callable comes in a body, is called by the host's number, goes home, and is released; one goes out in a result.",
        """
        def use(args, ctx):
            return [args["callback"](1), args["callback"]]
        def run(context):
            ir = context["interface_registry"]
            ir.register("use", use)
            ir.register("make", lambda args, ctx: {"add": lambda n: n + args})
        """,
        [
            AGENT_FRAME, WELCOME, RUN, AGENT_FRAME, [2, 1, 0, [], 11], AGENT_FRAME, [2, 2, 0, [], 12], AGENT_FRAME,
            _call(2, 1, {"callback": REF}, [[0, 701]]), AGENT_FRAME, [2, 3, 0, [], 10], AGENT_FRAME, AGENT_FRAME,
            _call(3, 2, 5), AGENT_FRAME, _call(4, 3, 37), AGENT_FRAME, [37, 0, [3]], _call(5, 3, 1), AGENT_FRAME,
        ],
    ),
    "events_and_requests": (
        "SUBSCRIBE, EVENT, PUBLISH, UNSUBSCRIBE; a file is read and a missing one refused.",
        """
        def run(context):
            bus, data = context["event_bus"], context["userdata_manager"]
            name = bus.subscribe("topic.a", lambda payload: bus.publish("topic.b", payload))
            ir = context["interface_registry"]
            ir.register("read", lambda path: data.read(path))
            ir.register("stop", lambda: bus.unsubscribe("topic.a", name))
        """,
        [
            AGENT_FRAME, WELCOME, RUN, AGENT_FRAME, [2, 1, 0, [], 21], AGENT_FRAME, [2, 2, 0, [], 11], AGENT_FRAME,
            [2, 3, 0, [], 12], AGENT_FRAME,
            [51, 0, 21, {"id": "1", "source": "beta", "type": "topic.a", "time": "2031-01-01T00:00:00Z"}, [], {"n": 1}],
            AGENT_FRAME, [2, 4, 0, [], 0],
            _call(2, 1, "packs/alpha/a"), AGENT_FRAME, [2, 5, 0, [], b"\x00\xff"], AGENT_FRAME,
            _call(3, 1, "packs/beta/b"), AGENT_FRAME, [3, 6, "denied", "not yours", "", False, ""], AGENT_FRAME,
            _call(4, 2, None), AGENT_FRAME, [2, 7, 0, [], True], AGENT_FRAME,
        ],
    ),
}
# fmt: on
VARIABLE: dict[int, list[list[Any]]] = {
    16: [[2, "agent"], [2, "codec"], [2, "probe"], [2, "python"]],
    19: [[2, "duration_us"]],
    22: [[2, "threads"]],
    3: [[6]],
}
VALUES: list[tuple[str, Any]] = [
    ("nothing", None), ("true", True), ("small integer", 7), ("negative integer", -33), ("largest integer", 2**64 - 1),
    ("smallest integer", -(2**63)), ("float", 1.5), ("text", "ü"), ("bytes", b"\x00\xff"), ("array", [1, [2, []]]),
    ("map", {"a": {"b": None}}), ("keys that are no text", {1: "one", b"k": 2}), ("timestamp", msgpack.Timestamp(1_900_000_000)),
    ("timestamp with fraction", msgpack.Timestamp(1_900_000_000, 500_000_000)), ("timestamp before 1970", msgpack.Timestamp(-1, 0)),
    ("date", msgpack.ExtType(2, b"2031-05-06")), ("64 levels", None), ("text of 40 bytes", "x" * 40), ("array of 16", [0] * 16),
]  # fmt: skip
REFUSED: list[tuple[str, str, str]] = [
    ("a length of 0", "00000000", "protocol"),
    ("longer than the limit", "0100100093", "protocol"),
    ("no array", "01000000c0", "protocol"),
    ("unknown kind", "03000000924d00", "protocol"),
    ("bytes after the array", "0400000092150101", "protocol"),
    ("body: bad UTF-8", "a2fffe", "value.malformed"),
    ("body: cut short", "9201", "value.malformed"),
    ("body: reserved byte", "c1", "value.malformed"),
    ("body: two values", "0101", "value.malformed"),
    ("body: a reference to nothing", "d40100", "value.malformed"),
    ("body: an array as a key", "819001", "value.malformed"),
    ("body: a reserved extension", "d40300", "value.malformed"),
]


def record(name: str) -> dict[str, Any]:
    """Hold one conversation with the real agent."""
    about, source, script = CONVERSATIONS[name]
    pack = {"backend/components/one/setup.py": dedent(source)} if source else {}
    frames = []
    with Wire(pack) as wire:
        for step in script:
            if step == AGENT_FRAME:
                fields, origin = wire.receive(), "agent"
            else:
                fields, origin = step, "host"
                wire.send(fields)
            varying = VARIABLE.get(fields[0], []) if origin == "agent" else []
            value = masked(to_json(fields), varying)
            entry = {"from": origin, "kind": KINDS[fields[0]], "value": value, "hex": encode(from_json(value)).hex()}
            frames.append({**entry, "any": varying} if varying else entry)
    return {"name": name, "about": about, "pack": pack, "frames": frames}


def main() -> None:
    """Write the files."""
    nested: Any = 1
    for _ in range(64):
        nested = [nested]
    values = [(name, nested if name == "64 levels" else value) for name, value in VALUES]
    documents = {
        "transcripts": [record(name) for name in CONVERSATIONS],
        "values": [
            {"name": name, "value": to_json(value), "hex": msgpack.packb(value).hex()} for name, value in values
        ],
        "refused": [{"name": name, "hex": data, "outcome": outcome} for name, data, outcome in REFUSED],
    }
    for name, document in documents.items():
        text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in document) + "\n]\n"
        (VECTORS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
