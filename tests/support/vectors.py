"""The transcripts of ``tests/vectors``: what both ends of the bus must accept, send and refuse, byte for byte.

``transcripts.json``: named conversations. ``pack`` holds the Pack's files; ``frames`` the frames in order, each ``from``
``host`` or ``agent``, as ``value`` (JSON with tags, below) and ``hex`` (the frame on the wire, its length included).
``any`` lists paths into the value whose content differs from run to run (times, versions): they are not compared.
``own`` lists those that each implementation words itself (titles of errors): compared for the agent of Rumi only.
``either`` marks a frame of the agent that may come before or after the next one.
``grouped`` marks a batch whose items an agent may send in frames of its own choice: one by one, in batches, or both.
``second: true`` marks the frame with which the descriptor of the second socket goes. An entry with ``message`` in place of
``hex`` is a message on that socket: its bytes, and with ``file`` those of the memory file whose descriptor it carries. An
agent that receives no descriptors leaves out the conversations that have any (``has_descriptors``).
``host.json``: the same for the host as the end that is tried, see ``host_conversations``.
``values.json``: single values and their MessagePack.
``refused.json``: what must end the connection, or one call; ``by`` says which end must refuse it.

Tags in JSON: ``{"$bytes": hex}``, ``{"$ext": [code, hex]}``, ``{"$map": [[key, value], ...]}`` (keys that are no text).

``python -m tests.support.vectors`` writes them anew from the conversations below, with the real agent as one end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import msgpack

from tests.support import machine
from tests.support.conversations import (
    AGENT_FILE,
    AGENT_FRAME,
    AGENT_PAIR,
    CONVERSATIONS,
    FILES,
    WELCOME,
    AgentItems,
    File,
    WithSecond,
    call,
    error,
    result,
    run_phase,
)
from tests.support.file_agent import memory

VECTORS = Path(__file__).parents[1] / "vectors"
AGENT = Path(__file__).parents[2] / "docker" / "core" / "runtime" / "container_agent.py"
KINDS = {
    1: "CALL", 2: "RESULT", 3: "ERROR", 4: "CANCEL", 5: "STREAM_ITEM", 6: "STREAM_END", 7: "STREAM_CREDIT", 8: "CHUNK", 9: "STREAM_BATCH", 16: "HELLO",
    17: "WELCOME", 18: "RUN_PHASE", 19: "PHASE_DONE", 20: "SHUTDOWN", 21: "PING", 22: "PONG", 23: "LOG", 32: "REGISTER",
    33: "UNREGISTER", 34: "MIRROR", 37: "RELEASE", 48: "SUBSCRIBE", 49: "UNSUBSCRIBE", 50: "PUBLISH", 51: "EVENT",
    64: "REQUEST",
}  # fmt: skip


def load(name: str) -> list[dict[str, Any]]:
    """The entries of one file."""
    entries: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return entries


def frames_of(conversation: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames of an entry of ``transcripts`` or ``host``; without what went over the second socket."""
    if "frames" in conversation:
        return [frame for frame in conversation["frames"] if "hex" in frame]
    return [frame for step in conversation["steps"] for frame in step.get("frames", [step] if "hex" in step else [])]


def has_descriptors(conversation: dict[str, Any]) -> bool:
    """Whether it can be held only by who receives descriptors."""
    return any("message" in entry for entry in [*conversation.get("frames", ()), *conversation.get("steps", ())])


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
    """A real agent, frame by frame. ``program``: what is started, by default the agent of Rumi."""

    def __init__(self, pack: dict[str, str], program: list[str] | None = None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        for name, text in pack.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        self.second: socket.socket | None = None
        command = [*(program or [sys.executable, "-I", "-S", str(AGENT)]), "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()
        if self.second is not None:
            self.second.close()
        self.process.wait(10)
        self.folder.cleanup()

    def receive(self) -> Any:
        """One frame's fields. Raises ``EOFError`` at the end of the connection."""
        size = int.from_bytes(self._exactly(4), "little")
        return msgpack.unpackb(self._exactly(size), strict_map_key=False)

    def receive_items(self, count: int) -> list[Any]:
        """So many items of one stream, in whatever frames they come: as one batch."""
        numbers, items = set(), []
        while len(items) < count:
            kind, number, refs, body = self.receive()
            assert kind in {5, 9}, kind
            assert refs == []
            numbers.add(number)
            items += body if kind == 9 else [body]
        (number,) = numbers
        return [9, number, [], items]

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

    def send_second(self, fields: Any) -> None:
        """A frame, with whose first byte the agent's end of a second socket goes."""
        self.second, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.second.settimeout(20)
        data = encode([*fields[:2], {**fields[2], "paths": {"pack": str(self.root)}}])
        with theirs:
            socket.send_fds(self.sock, [data], [theirs.fileno()])

    def send_file(self, file: File) -> None:
        """A memory file."""
        assert self.second is not None
        fd = memory(file.data)
        try:
            socket.send_fds(self.second, [file.mark()], [fd])
        finally:
            os.close(fd)

    def receive_file(self) -> tuple[bytes, bytes | None]:
        """The agent's next message on the second socket, and what is in the file that it brought, if it brought one."""
        assert self.second is not None
        data, files, _, _ = socket.recv_fds(self.second, 64, 4)
        if not files:
            return data, None
        (fd,) = files
        try:
            return data, os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def begin(self) -> int:
        """HELLO to PHASE_DONE of a component that registers one callable; the number of that."""
        assert self.receive()[0] == 16
        self.send(WELCOME)
        self.send(run_phase())
        register = self.receive()
        assert register[0] == 32
        self.send(result(register[1], 11))
        assert self.receive()[2]["ok"] is True
        number: int = register[6][0][1]
        return number


def with_body(ref: int, number: int, body: bytes, refs: Any = ()) -> bytes:
    """A CALL whose body is ``body``, whatever that is."""
    fields = [*call(number, ref, None)[:-2], refs]
    data = bytes([0x90 + len(fields) + 1]) + b"".join(msgpack.packb(field) for field in fields) + body
    return len(data).to_bytes(4, "little") + data


def node_agent() -> list[str]:
    """How the agent in ``node_agent`` is started."""
    node = machine.node()
    assert node is not None, "a test that starts it has the mark `node`"
    return [node, str(Path(__file__).parent / "node_agent" / "agent.js")]


VARIABLE: dict[int, list[list[Any]]] = {
    16: [[2, "agent"], [2, "codec"], [2, "probe"], [2, "python"]],
    19: [[2, "duration_us"], [2, "error", 4]],
    22: [[2, "threads"]],
    3: [[6]],
    6: [[2, 4]],
}
"""What differs from run to run, where it is there at all."""
OWN: dict[int, list[list[Any]]] = {
    16: [[2, "memory"]],
    3: [[3], [4]],
    6: [[2, 1], [2, 2]],
    19: [[2, "asynchronous"], [2, "error", 1], [2, "error", 2]],
}
"""What each implementation words itself."""
VALUES: list[tuple[str, Any]] = [
    ("nothing", None), ("true", True), ("small integer", 7), ("negative integer", -33), ("largest integer", 2**64 - 1),
    ("smallest integer", -(2**63)), ("float", 1.5), ("text", "ü"), ("bytes", b"\x00\xff"), ("array", [1, [2, []]]),
    ("map", {"a": {"b": None}}), ("keys that are no text", {1: "one", b"k": 2}), ("timestamp", msgpack.Timestamp(1_900_000_000)),
    ("timestamp with fraction", msgpack.Timestamp(1_900_000_000, 500_000_000)), ("timestamp before 1970", msgpack.Timestamp(-1, 0)),
    ("date", msgpack.ExtType(2, b"2031-05-06")), ("64 levels", None), ("text of 40 bytes", "x" * 40), ("array of 16", [0] * 16),
]  # fmt: skip
FROM_HOST: list[tuple[str, list[Any]]] = [
    ("CALL", call(1, 1, None)), ("RESULT", result(1, None)), ("ERROR", error(1, "limit")), ("CANCEL", [4, 1]),
    ("STREAM_ITEM", [5, 1, [], None]), ("STREAM_END", [6, 1, None]), ("STREAM_CREDIT", [7, 1, 1]), ("CHUNK", [8, 1, b"x"]), ("STREAM_BATCH", [9, 1, [], [1]]), ("WELCOME", WELCOME),
    ("RUN_PHASE", run_phase()), ("SHUTDOWN", [20, 0, 0]), ("PING", [21, 1]), ("MIRROR", [34, 0, "k", [], [], []]),
    ("RELEASE", [37, 0, [1]]), ("EVENT", [51, 0, 1, {}, [], None]),
]  # fmt: skip
FROM_AGENT: list[tuple[str, list[Any]]] = [
    ("CALL", [1, 1, "k", 0, 0, 0, None, [], None]), ("RESULT", result(1, None)), ("ERROR", error(1, "limit")), ("CANCEL", [4, 1]),
    ("STREAM_ITEM", [5, 1, [], None]), ("STREAM_END", [6, 1, None]), ("STREAM_CREDIT", [7, 1, 1]), ("CHUNK", [8, 1, b"x"]), ("STREAM_BATCH", [9, 1, [], [1]]), ("HELLO", [16, 0, {}]),
    ("PHASE_DONE", [19, 1, {}]), ("PONG", [22, 1, {}]), ("LOG", [23, 0, 20, "stdout", "x"]),
    ("REGISTER", [32, 1, "k", {}, None, None, [], None]), ("UNREGISTER", [33, 1, [1]]), ("RELEASE", [37, 0, [1]]),
    ("SUBSCRIBE", [48, 1, "t"]), ("UNSUBSCRIBE", [49, 1, 1]), ("PUBLISH", [50, 1, "t", [], None]),
    ("REQUEST", [64, 1, "secret.get", 0, [], {}]),
]  # fmt: skip
"""One good frame of each kind, to spoil."""


def _refused() -> list[dict[str, str]]:
    """``by``: who must refuse it. ``protocol`` ends the connection, anything else is a body that fails its call."""
    both = [
        ("a length of 0", b"\0\0\0\0"), ("longer than the limit", bytes.fromhex("0100100093")),
        ("no array", bytes.fromhex("01000000c0")), ("an empty array", bytes.fromhex("0100000090")),
        ("an array that announces more than there is", bytes.fromhex("05000000dcffff0401")), ("unknown kind", encode([77, 0])),
        ("a kind that is a text", encode(["4", 1])), ("bytes after the array", bytes.fromhex("0400000092040101")),
        ("a stream among the references of an answer", encode([2, 1, 0, [[2, 1]], None])),
        ("a header of bad UTF-8", bytes.fromhex("0a000000970301a2fffea0a0c2a0")),
    ]  # fmt: skip
    entries = [{"name": name, "by": by, "hex": data.hex(), "outcome": "protocol"} for name, data in both for by in ("agent", "host")]
    for by, kinds in (("agent", FROM_HOST), ("host", FROM_AGENT)):
        for name, fields in kinds:
            spoiled = {"a field too few": fields[:-1], "a field too many": [*fields, None]}
            if by == "host":  # an agent may take the host's word for what a field is
                spoiled |= {"an id of the wrong type": [fields[0], "1", *fields[2:]], "an id beyond 32 bits": [fields[0], 2**32, *fields[2:]]}
                typed = _wrong(fields)
                spoiled |= {"a field of the wrong type": typed} if typed is not None else {}
            entries += [
                {"name": f"{name}: {how}", "by": by, "hex": encode(frame).hex(), "outcome": "protocol"}
                for how, frame in spoiled.items()
            ]
    foreign = {"agent": (encode([23, 0, 20, "stdout", "x"]), "LOG"), "host": (encode([21, 1]), "PING")}
    entries += [{"name": f"{kind} from the wrong side", "by": by, "hex": data.hex(), "outcome": "protocol"} for by, (data, kind) in foreign.items()]
    bodies = [
        ("bad UTF-8", "a2fffe"), ("cut short", "9201"), ("reserved byte", "c1"), ("two values", "0101"),
        ("a reference to nothing", "d40100"), ("an array as a key", "819001"), ("an extension that means nothing", "d40900"),
        ("a moment with too many nanoseconds", "d7ffffffffff00000000"), ("a moment of three bytes", "c703ff000000"), ("a date that is none", "d602736f6f6e"),
    ]  # fmt: skip
    nowhere = encode([1, 1, "k", 0, 0, 0, None, [], FILES[0].body()])
    entries.append({"name": "a body in a memory file without a second socket", "by": "host", "hex": nowhere.hex(), "outcome": "protocol"})
    bodies.append(("a memory file without a second socket", msgpack.packb(FILES[0].body()).hex()))
    return entries + [{"name": f"body: {name}", "by": "agent", "hex": data, "outcome": "value.malformed"} for name, data in bodies]


def _wrong(fields: list[Any]) -> list[Any] | None:
    """The frame with its first checked field behind the id turned into what it must not be."""
    for at in range(2, len(fields)):
        if isinstance(fields[at], str | int | list) and at < len(fields) - (fields[0] in {1, 2, 5, 9, 32, 50, 64}):
            return [*fields[:at], {"no": "such"}, *fields[at + 1 :]]
    return None


def _there(fields: list[Any], paths: list[list[Any]]) -> list[list[Any]]:
    """Those of ``paths`` that exist in ``fields``."""

    def reaches(path: list[Any]) -> bool:
        at: Any = fields
        for step in path:
            try:
                at = at[step]
            except (KeyError, IndexError, TypeError):
                return False
        return at is not None

    return [path for path in paths if reaches(path)]


def record(name: str) -> dict[str, Any]:
    """Hold one conversation with the real agent."""
    conversation = CONVERSATIONS[name]
    frames = []
    with Wire(conversation.pack()) as wire:
        for step in conversation.script:
            if step is AGENT_FRAME:
                frames.append(_of_agent(wire.receive()))
            elif step is AGENT_PAIR:
                pair = sorted(wire.receive() for _ in range(2))
                frames += [{**_of_agent(pair[0]), "either": True}, _of_agent(pair[1])]
            elif isinstance(step, AgentItems):
                frames.append(_of_agent(wire.receive_items(step.count)) | {"grouped": True})
            elif step is AGENT_FILE:
                frames.append(message_entry("agent", *wire.receive_file()))
            elif isinstance(step, File):
                wire.send_file(step)
                frames.append(message_entry("host", step.mark(), step.data))
            elif isinstance(step, WithSecond):
                wire.send_second(step.frame)
                frames.append({**_entry("host", step.frame, to_json(step.frame)), "second": True})
            else:
                wire.send(step)
                frames.append(_entry("host", step, to_json(step)))
    pack = {path: dedent(text) for path, text in conversation.pack().items()}
    return {"name": name, "about": conversation.about, "pack": pack, "frames": frames}


def _of_agent(fields: list[Any]) -> dict[str, Any]:
    varying, own = (_there(fields, table.get(fields[0], [])) for table in (VARIABLE, OWN))
    entry = _entry("agent", fields, masked(to_json(fields), varying))
    return entry | ({"any": varying} if varying else {}) | ({"own": own} if own else {})


def message_entry(origin: str, message: bytes, data: bytes | None) -> dict[str, Any]:
    """What went over the second socket."""
    return {"from": origin, "message": message.hex()} | ({} if data is None else {"file": data.hex()})


def _entry(origin: str, fields: list[Any], value: Any) -> dict[str, Any]:
    return {"from": origin, "kind": KINDS[fields[0]], "value": value, "hex": encode(from_json(value)).hex()}


def play(transcript: dict[str, Any], wire: Wire, *, foreign: bool = False) -> list[str]:
    """Hold a recorded conversation with an agent: what it said that is not in the record. ``foreign``: not Rumi's own."""
    problems = []
    frames = iter(transcript["frames"])
    for frame in frames:
        if "message" in frame:
            problems += _played_message(frame, wire)
            continue
        if frame["from"] == "host":
            (wire.send_second if frame.get("second") else wire.send)(from_json(frame["value"]))
            continue
        expected = [frame, next(frames)] if frame.get("either") else [frame]
        if frame.get("grouped"):
            came = [wire.receive_items(len(frame["value"][3]))]
        else:
            came = sorted(wire.receive() for _ in expected)
        for want, got in zip(expected, came, strict=True):
            paths = [*want.get("any", []), *(want.get("own", []) if foreign else [])]
            seen, told = (masked(value, paths) for value in (to_json(got), want["value"]))
            if seen != told:
                problems.append(f"{want['kind']}: expected {told}, got {seen}")
    return problems


def _played_message(entry: dict[str, Any], wire: Wire) -> list[str]:
    if entry["from"] == "host":
        wire.send_file(File(int.from_bytes(bytes.fromhex(entry["message"])[:4], "little"), bytes.fromhex(entry["file"])))
        return []
    seen = message_entry("agent", *wire.receive_file())
    return [] if seen == entry else [f"on the second socket: expected {entry}, got {seen}"]


def main() -> None:
    """Write the files."""
    nested: Any = 1
    for _ in range(64):
        nested = [nested]
    values = [(name, nested if name == "64 levels" else value) for name, value in VALUES]
    documents: dict[str, Any] = {
        "transcripts": [record(name) for name in CONVERSATIONS],
        "values": [
            {"name": name, "value": to_json(value), "hex": msgpack.packb(value).hex()} for name, value in values
        ],
        "refused": _refused(),
    }
    for name, document in documents.items():
        text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in document) + "\n]\n"
        (VECTORS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
