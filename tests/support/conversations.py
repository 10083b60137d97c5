"""The conversations of ``tests/vectors/transcripts.json``: what the host sends, and the Pack that answers, in two languages.

A Pack's component is written twice, ``setup.py`` for the agent of Rumi and ``setup.js`` for the one in ``node_agent``: both
must hold the same conversation, word for word, except for texts that each language words itself.
``AGENT_FRAME`` stands for one frame of the agent, ``AGENT_PAIR`` for two whose order says nothing, ``AgentItems`` for
items of a stream in frames of the agent's choice, ``AGENT_FILE`` for its next message on the second socket, ``File`` for one of the host's; ``WithSecond`` is a frame that brings that socket. ``python -m tests.support.vectors`` records what the real one says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

AGENT_FRAME = "agent"
AGENT_PAIR = "two of the agent's, in either order"
AGENT_FILE = "a message of the agent's on the second socket"
REF = msgpack.ExtType(1, b"\x00")
REF_2 = msgpack.ExtType(1, b"\x01")
NO_CONTEXT: list[Any] = ["", "kernel", [], None]


@dataclass(frozen=True)
class File:
    """A memory file, and the message that brings it."""

    number: int
    data: bytes

    def mark(self) -> bytes:
        """The message, and what a frame says of it."""
        return self.number.to_bytes(4, "little") + len(self.data).to_bytes(4, "little")

    def body(self) -> msgpack.ExtType:
        """The body of the frame that names it."""
        return msgpack.ExtType(3, self.mark())


@dataclass(frozen=True)
class WithSecond:
    """A frame with the descriptor of the second socket."""

    frame: list[Any]


@dataclass(frozen=True)
class AgentItems:
    """So many items, one by one, in batches, or both."""

    count: int


@dataclass(frozen=True)
class Conversation:
    """``script``: frames of the host, and ``AGENT_FRAME`` where the agent has its turn."""

    about: str
    script: list[Any]
    python: str = ""
    javascript: str = ""

    def pack(self) -> dict[str, str]:
        """The Pack's files."""
        folder = "backend/components/one"
        return {f"{folder}/setup.py": self.python, f"{folder}/setup.js": self.javascript} if self.python else {}


# fmt: off
LIMITS = {"frame_bytes": 1048576, "in_flight": 1024, "depth": 32, "deadline_ms": 30000, "stream_credit": 2, "threads": 48, "registry_bytes": 8388608}
WELCOME = [17, 0, {"protocol": 1, "pack_id": "alpha", "generation": 1, "limits": LIMITS, "paths": {"pack": "/pack"}, "lock": {}}]
COMPONENT = {"full_id": "alpha:service:one", "type": "service", "id": "one", "pack_id": "alpha", "dir": "backend/components/one"}


def run_phase(number: int = 1, file: str = "setup.py") -> list[Any]:
    return [18, number, COMPONENT, file, {"phase": "setup", "ts": 1.5, "mounts": {}, "register": None}]


def call(number: int, ref: int, body: Any, refs: Any = (), *, depth: int = 0, reenter: int = 0, idempotency: str | None = None) -> list[Any]:
    return [1, number, ref, 30000, 0, depth, reenter, NO_CONTEXT, idempotency, list(refs), body]


def result(number: int, body: Any, refs: Any = (), *, flags: int = 0) -> list[Any]:
    return [2, number, flags, list(refs), body]


def error(number: int, type_: str, title: str = "", *, retryable: bool = False) -> list[Any]:
    return [3, number, type_, title or f"an error of type {type_}", "", retryable, ""]


def mirror(key: str, number: int | None, value: Any = REF, *, mine: bool = False, registration: int = 9) -> list[Any]:
    """``number`` None: data, or a key that is gone when ``value`` is None too."""
    entry = {
        "owner": True, "pack": "beta", "ts": 2.5, "meta": {}, "callable": number is not None, "input": None, "output": None,
        "mine": mine, "registration": registration,
    }
    if number is None:
        return [34, 0, key, [entry], [], [value]] if value is not None else [34, 0, key, [], [], []]
    return [34, 0, key, [entry], [[1 if mine else 0, number]], [value]]


FEEDING = [17, 0, {**WELCOME[2], "limits": {**LIMITS, "sources": 16}}]
"""Of a host that takes streams in arguments."""
BATCHING = [17, 0, {**WELCOME[2], "limits": {**LIMITS, "stream_credit": 32, "batch_bytes": 15 * 1024}}]
"""Of a host that takes several items of a stream in one frame."""
SMALL = {**LIMITS, "frame_bytes": 1024, "value_bytes": 4096, "values": 16}
"""Limits with which a body need not be long to go in chunks."""


def in_chunks(number: int, value: Any) -> tuple[list[Any], Any]:
    """CHUNK frames of a value in pieces of 500 bytes, and the body of the frame that they belong to."""
    data = msgpack.packb(value)
    frames = [[8, number, data[at : at + 500]] for at in range(0, len(data), 500)]
    return frames, msgpack.ExtType(4, number.to_bytes(4, "little") + len(data).to_bytes(4, "little"))


ONE, ONE_BODY = in_chunks(7, {"data": b"\x01" * 1200})
TWO, TWO_BODY = in_chunks(8, "x" * 700)
BEGIN = [AGENT_FRAME, WELCOME, run_phase()]
"""HELLO, WELCOME, RUN_PHASE."""


def registered(*numbers: int) -> list[Any]:
    """One REGISTER after the other, answered, then PHASE_DONE."""
    return [*(step for at, number in enumerate(numbers, 1) for step in (AGENT_FRAME, result(at, number))), AGENT_FRAME]


ERROR_TYPES = (
    "missing", "unavailable", "timeout", "cancelled", "denied", "limit", "depth", "schema", "incompatible", "contract", "dead_reference",
    "shutting_down", "superseded", "on_trial", "value.malformed", "value.unsupported", "value.too_large", "value.too_deep",
    "secret_taken", "not_fetched", "error/KeyError", "billing/declined",
)
REQUESTS: list[tuple[str, dict[str, Any], Any]] = [
    ("userdata.read", {"path": "packs/alpha/a"}, b"\x00\xff"), ("userdata.write", {"path": "packs/alpha/a", "data": b"x"}, None),
    ("userdata.list", {"prefix": "packs/alpha"}, ["packs/alpha/a"]), ("userdata.exists", {"path": "packs/alpha/a"}, True),
    ("userdata.stat", {"path": "packs/alpha/a"}, {"size": 1}), ("userdata.delete", {"path": "packs/alpha/a"}, None),
    ("permission.has", {"type": "network", "params": {"host": "example.org"}}, False),
    ("permission.request", {"type": "network", "params": {"host": "example.org"}}, {"granted": False}),
    ("privilege.execute", {"privilege": "notify", "params": {"title": "Done"}}, {"shown": True}),
    ("secret.get", {"name": "token"}, "hidden"),
    ("registry.source", {"key": "beta.work"}, "def work(): ..."),
    ("journal.record", {"created": ["a"], "modified": [], "scope": "alpha:service:one"}, None),
]

FILE_LIMITS = {"limits": SMALL, "memory": {"from_bytes": 600}}
FILES = [File(number, msgpack.packb({"data": bytes([number]) * 1200})) for number in range(1, 4)]
ECHO = """
        def run(context):
            context["interface_registry"].register("alpha.echo", lambda args, ctx: args)
        """
ECHO_JS = """
        exports.run = ({ registry }) => registry.register("alpha.echo", (args) => args);
        """

CONVERSATIONS: dict[str, Conversation] = {
    "memory_files": Conversation(
        "Bodies in memory files both ways over a second socket; a file whose frame did not go out is passed over; a short body stays in its frame.",
        [
            AGENT_FRAME, WithSecond([17, 0, {**WELCOME[2], **FILE_LIMITS}]), AGENT_FILE, run_phase(), *registered(1),
            FILES[0], call(10, 1, FILES[0].body()), AGENT_FRAME, AGENT_FILE,
            FILES[1], FILES[2], call(11, 1, FILES[2].body()), AGENT_FRAME, AGENT_FILE,
            call(12, 1, "short"), AGENT_FRAME,
        ],
        ECHO,
    ),
    "memory_files_not_taken": Conversation(
        "An agent that the second socket did not reach: its long bodies go in chunks, and a body in a memory file means nothing to it.",
        [
            AGENT_FRAME, [17, 0, {**WELCOME[2], **FILE_LIMITS}], run_phase(), *registered(1),
            *ONE, call(10, 1, ONE_BODY), *[AGENT_FRAME] * 4, call(11, 1, FILES[0].body()), AGENT_FRAME, call(12, 1, "short"), AGENT_FRAME,
        ],
        ECHO,
        ECHO_JS,
    ),
    "chunks": Conversation(
        "Bodies longer than a frame, two at once, and one beyond the limit; an answer and an item of a stream that are.",
        [
            AGENT_FRAME, [17, 0, {**WELCOME[2], "limits": SMALL}], run_phase(), *registered(1, 2),
            *ONE[:2], *TWO, *ONE[2:], call(10, 1, ONE_BODY), *[AGENT_FRAME] * 4, call(11, 1, TWO_BODY), AGENT_FRAME,
            call(12, 2, 600), *[AGENT_FRAME] * 6, call(13, 2, 5000), AGENT_FRAME, AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("alpha.echo", lambda args, ctx: args)

            def stream(args, ctx):
                yield "y" * (args * 2)

            ir.register("alpha.stream", stream)
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("alpha.echo", (args) => args);
          await registry.register("alpha.stream", function* (args) {
            yield "y".repeat(args * 2);
          });
        };
        """,
    ),
    "life": Conversation(
        "HELLO, WELCOME, a ping, the orderly end.",
        [AGENT_FRAME, WELCOME, [21, 5], AGENT_FRAME, [20, 0, 1000]],
    ),
    "register_and_call": Conversation(
        "A component registers a handler; the host calls it, and gets a value, then a typed error; a number that names nothing is refused.",
        [
            *BEGIN, *registered(11),
            call(2, 1, {"name": "Bob"}), AGENT_FRAME, call(3, 1, {}), AGENT_FRAME, call(4, 77, None), AGENT_FRAME,
        ],
        """
        def hello_handler(args, ctx):
            if "name" not in args:
                raise KeyError("name")
            return {"message": f"Hello, {args['name']}!"}
        def run(context):
            context["interface_registry"].register("service.hello", hello_handler, {"since": "1.0"})
        """,
        """
        class KeyError extends Error {}
        function hello(args) {
          if (!("name" in args)) throw new KeyError("name");
          return { message: `Hello, ${args.name}!` };
        }
        exports.run = ({ registry }) => registry.register("service.hello", hello, { since: "1.0" });
        """,
    ),
    "typed_error": Conversation(
        "An exception with a type of its own keeps it; a call without an id is run and not answered.",
        [*BEGIN, *registered(11), call(0, 1, 5), call(2, 1, 500), AGENT_FRAME],
        """
        class Declined(Exception):
            type = "billing/declined"
        def pay(args, ctx):
            if args > 100:
                raise Declined("no cover")
        def run(context):
            context["interface_registry"].register("pay", pay)
        """,
        """
        function pay(args) {
          if (args > 100) throw Object.assign(new Error("no cover"), { type: "billing/declined" });
        }
        exports.run = ({ registry }) => registry.register("pay", pay);
        """,
    ),
    "phases": Conversation(
        "A file that is not there, a component that raises, and one that prints to the log.",
        [
            AGENT_FRAME, WELCOME, run_phase(1, "absent.py"), AGENT_FRAME, run_phase(2), AGENT_FRAME, run_phase(3), AGENT_FRAME, AGENT_FRAME,
        ],
        """
        import logging
        def run(context):
            if not hasattr(logging, "second_time"):
                logging.second_time = True
                raise ValueError("not yet")
            logging.getLogger("pack").warning("ready")
        """,
        """
        class ValueError extends Error {}
        let runs = 0;
        exports.run = ({ log }) => {
          runs += 1;
          if (runs === 1) throw new ValueError("not yet");
          log(30, "ready");
        };
        """,
    ),
    "context": Conversation(
        "What a handler is told of its call.",
        [
            *BEGIN, *registered(11),
            [1, 2, 1, 30000, 0, 2, 0, ["00-11111111111111111111111111111111-2222222222222222-01", "beta", ["gamma"], "flow-1"], "key-1", [], None],
            AGENT_FRAME,
        ],
        """
        def tell(args, ctx):
            return [ctx["caller"], list(ctx["asserted_chain"]), ctx["flow"], ctx["idempotency_key"], ctx["trace"]]
        def run(context):
            context["interface_registry"].register("tell", tell)
        """,
        """
        const tell = (args, ctx) => [ctx.caller, ctx.chain, ctx.flow, ctx.idempotencyKey, ctx.trace];
        exports.run = ({ registry }) => registry.register("tell", tell);
        """,
    ),
    "stream": Conversation(
        "A generator streams within its credit of 2, goes on when it gets more, and ends on CANCEL; one ends with an error.",
        [
            *BEGIN, *registered(11, 12),
            call(2, 1, 3), AGENT_FRAME, AGENT_FRAME, AGENT_FRAME, [7, 2, 2], AGENT_FRAME, AGENT_FRAME,
            call(3, 1, 1000000), AGENT_FRAME, AGENT_FRAME, AGENT_FRAME, [4, 3], AGENT_FRAME,
            call(4, 2, None), AGENT_FRAME, AGENT_FRAME, AGENT_FRAME,
        ],
        """
        class Broken(Exception):
            type = "meter/broken"
        def count(args, ctx):
            for number in range(args):
                yield number
        def breaks(args, ctx):
            yield "one"
            raise Broken("cut")
        def run(context):
            context["interface_registry"].register("count", count)
            context["interface_registry"].register("breaks", breaks)
        """,
        """
        function* count(args) {
          for (let number = 0; number < args; number++) yield number;
        }
        async function* breaks() {
          yield "one";
          throw Object.assign(new Error("cut"), { type: "meter/broken" });
        }
        exports.run = async ({ registry }) => {
          await registry.register("count", count);
          await registry.register("breaks", breaks);
        };
        """,
    ),
    "batches": Conversation(
        "A generator's items go in frames of its agent's choice, one by one or in batches, in order and within the credit of 32.",
        [
            AGENT_FRAME, BATCHING, run_phase(), *registered(11),
            call(2, 1, 40), AGENT_FRAME, AgentItems(32), [7, 2, 100], AgentItems(8), AGENT_FRAME,
        ],
        """
        def run(context):
            def numbers(args, ctx):
                for number in range(args):
                    yield {"n": number}
            context["interface_registry"].register("numbers", numbers)
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("numbers", function* (args) {
            for (let n = 0; n < args; n++) yield { n };
          });
        };
        """,
    ),
    "read_batches": Conversation(
        "A handler reads another Pack's stream whose items come one by one and in batches, a short and a long one, with credit for each item; a batch with an item that is malformed ends its reading.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11),
            call(2, 1, None), AGENT_FRAME, result(2, None, flags=1), [5, 2, [], "a"], AGENT_FRAME, [9, 2, [], ["b", "c"]], AGENT_FRAME, AGENT_FRAME,
            [9, 2, [], ["d" * 3000, "e" * 3000, "f"]], AGENT_FRAME, AGENT_FRAME, AGENT_FRAME, [6, 2, None], AGENT_FRAME,
            call(3, 1, None), AGENT_FRAME, result(3, None, flags=1), [9, 3, [], ["g", msgpack.ExtType(9, b"")]], AGENT_PAIR,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            def total(args, ctx):
                items = ir.get("beta.work")(args)
                try:
                    return sum(map(len, items))
                except Exception as exc:
                    items.close()
                    return exc.type
            ir.register("total", total)
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("total", async (args) => {
            try {
              let sum = 0;
              for await (const item of await registry.get("beta.work")(args)) sum += item.length;
              return sum;
            } catch (problem) {
              return problem.busType;
            }
          });
        };
        """,
    ),
    "read_a_stream": Conversation(
        "A handler reads another Pack's stream with credit, leaves one early, and sees the error that ends a third.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11, 12),
            call(2, 1, None), AGENT_FRAME, result(2 + 1, None, flags=1), [5, 3, [], 1], AGENT_FRAME, [5, 3, [], 2], AGENT_FRAME,
            [5, 3, [], 3], AGENT_FRAME, [6, 3, None], AGENT_FRAME,
            call(3, 2, None), AGENT_FRAME, result(4, None, flags=1), [5, 4, [], 1], AGENT_FRAME, AGENT_PAIR,
            call(4, 1, None), AGENT_FRAME, result(5, None, flags=1),
            [6, 5, ["unavailable", "beta went away", "", True, ""]], AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            def total(args, ctx):
                try:
                    return sum(ir.get("beta.work")(args))
                except Exception as exc:
                    return exc.type
            def first(args, ctx):
                for item in ir.get("beta.work")(args):
                    return item
            ir.register("total", total)
            ir.register("first", first)
        """,
        """
        exports.run = async ({ registry }) => {
          const total = async (args) => {
            try {
              let sum = 0;
              for await (const item of await registry.get("beta.work")(args)) sum += item;
              return sum;
            } catch (problem) {
              return problem.busType;
            }
          };
          const first = async (args) => {
            for await (const item of await registry.get("beta.work")(args)) return item;
          };
          await registry.register("total", total);
          await registry.register("first", first);
        };
        """,
    ),
    "cancel": Conversation(
        "CANCEL of a running call reaches the call that it made, and is answered once.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11),
            call(2, 1, None), AGENT_FRAME, [4, 2], AGENT_FRAME, AGENT_FRAME, error(2, "cancelled"), [21, 5], AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            def outer(args, ctx):
                try:
                    return ir.get("beta.work")(args)
                except Exception as exc:
                    return exc.type
            ir.register("outer", outer)
        """,
        """
        exports.run = ({ registry }) =>
          registry.register("outer", (args) => registry.get("beta.work")(args).catch((problem) => problem.busType));
        """,
    ),
    "call_another_pack": Conversation(
        "The mirror shows another Pack's callable; a handler calls it by key, is re-entered on its stack, and answers.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11, 12),
            call(2, 1, "x"), AGENT_FRAME, call(3, 2, "y", depth=2, reenter=3), AGENT_FRAME, result(3, "z"), AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("outer", lambda args, ctx: ["outer", ir.get("beta.work")(args)])
            ir.register("inner", lambda args, ctx: ["inner", args])
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("outer", async (args) => ["outer", await registry.get("beta.work")(args)]);
          await registry.register("inner", (args) => ["inner", args]);
        };
        """,
    ),
    "read_an_argument": Conversation(
        "A stream in the arguments is read through the host's number, with credit; one is left early, one ends with an error, one is not read.",
        [
            AGENT_FRAME, FEEDING, run_phase(), *registered(11, 12, 13),
            call(2, 1, {"items": REF}, [[2, 701]]), AGENT_FRAME, result(4, None, flags=1), [5, 4, [], 1], AGENT_FRAME, [5, 4, [], 2], AGENT_FRAME,
            [6, 4, None], AGENT_PAIR,
            call(3, 2, {"items": REF}, [[2, 702]]), AGENT_FRAME, result(5, None, flags=1), [5, 5, [], 1], AGENT_FRAME, AGENT_FRAME, AGENT_PAIR,
            call(4, 1, {"items": REF}, [[2, 703]]), AGENT_FRAME, result(6, None, flags=1),
            [6, 6, ["unavailable", "beta went away", "", True, ""]], AGENT_PAIR,
            call(5, 3, {"items": REF}, [[2, 704]]), AGENT_PAIR,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            def total(args, ctx):
                try:
                    return sum(args["items"])
                except Exception as exc:
                    return exc.type
            def first(args, ctx):
                with args["items"] as items:
                    return next(items)
            ir.register("total", total)
            ir.register("first", first)
            ir.register("ignore", lambda args, ctx: None)
        """,
        """
        exports.run = async ({ registry }) => {
          const total = async ({ items }) => {
            try {
              let sum = 0;
              for await (const item of items) sum += item;
              return sum;
            } catch (problem) {
              return problem.busType;
            }
          };
          const first = async ({ items }) => {
            for await (const item of items) return item;
          };
          await registry.register("total", total);
          await registry.register("first", first);
          await registry.register("ignore", () => null);
        };
        """,
    ),
    "pass_an_argument": Conversation(
        "A stream is passed in the arguments of a call, read by the host within its credit of 2, refused the second time; one is ended by CANCEL.",
        [
            AGENT_FRAME, FEEDING, mirror("beta.work", 501), run_phase(), *registered(11),
            call(2, 1, 3), AGENT_FRAME, call(3, 2, None, reenter=2), *[AGENT_FRAME] * 3, [7, 3, 2], *[AGENT_FRAME] * 2,
            call(4, 2, None, reenter=2), AGENT_FRAME, [37, 0, [2]], result(2, "read"), AGENT_FRAME,
            call(5, 1, 1000000), AGENT_FRAME, call(6, 3, None, reenter=3), *[AGENT_FRAME] * 3, [4, 6], AGENT_FRAME, result(3, "enough"), AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("pass", lambda args, ctx: ir.get("beta.work")({"items": iter(range(args))}))
        """,
        """
        exports.run = async ({ registry }) => {
          function* count(n) {
            for (let number = 0; number < n; number++) yield number;
          }
          await registry.register("pass", (args) => registry.get("beta.work")({ items: count(args) }));
        };
        """,
    ),
    "mirror": Conversation(
        "What a key holds is answered from the mirror; a key whose entries are gone is none.",
        [
            *BEGIN, *registered(11), call(2, 1, None), AGENT_FRAME, mirror("beta.data", None, {"now": "data"}), call(3, 1, None), AGENT_FRAME,
            mirror("beta.data", None, None), call(4, 1, None), AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("see", lambda args, ctx: [ir.get("beta.data"), ir.get("beta.data", "all")])
        """,
        """
        exports.run = ({ registry }) =>
          registry.register("see", () => [registry.get("beta.data"), registry.get("beta.data", "all")]);
        """,
    ),
    "every_error": Conversation(
        "A handler sees the type of each error that the host makes itself, and that of another Pack's exception.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11),
            *(step for at, type_ in enumerate(ERROR_TYPES) for step in (
                call(10 + at, 1, None), AGENT_FRAME, error(2 + at, type_, retryable=type_ in {"missing", "unavailable", "timeout", "limit"}), AGENT_FRAME,
            )),
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            def attempt(args, ctx):
                try:
                    ir.get("beta.work")(args)
                except Exception as exc:
                    return [exc.type, exc.retryable]
            ir.register("attempt", attempt)
        """,
        """
        exports.run = ({ registry }) =>
          registry.register("attempt", async (args) => {
            try {
              await registry.get("beta.work")(args);
            } catch (problem) {
              return [problem.busType, problem.retryable];
            }
          });
        """,
    ),
    "values_refused": Conversation(
        "What can't cross is refused where it stands, and a call out of order fails alone.",
        [*BEGIN, *registered(11), *(step for at in range(3) for step in (call(2 + at, 1, at), AGENT_FRAME))],
        """
        def nested():
            value = 1
            for _ in range(65):
                value = [value]
            return value
        MADE = [lambda: {"big": 2**64}, lambda: {"odd": object()}, nested]
        def run(context):
            context["interface_registry"].register("make", lambda args, ctx: MADE[args]())
        """,
        """
        class Odd {}
        function nested() {
          let value = 1;
          for (let i = 0; i < 65; i++) value = [value];
          return value;
        }
        const made = [() => ({ big: 2n ** 64n }), () => ({ odd: new Odd() }), nested];
        exports.run = ({ registry }) => registry.register("make", (args) => made[args]());
        """,
    ),
    "references": Conversation(
        "A callable comes in a body, is called by the host's number, goes home, and is released; one goes out in a result.",
        [
            *BEGIN, *registered(11, 12),
            call(2, 1, {"callback": REF}, [[0, 701]]), AGENT_FRAME, result(3, 10), AGENT_FRAME, AGENT_FRAME,
            call(3, 2, 5), AGENT_FRAME, call(4, 3, 37), AGENT_FRAME, [37, 0, [3]], call(5, 3, 1), AGENT_FRAME,
            call(6, 1, {"callback": REF}, [[1, 4]]), AGENT_FRAME,
        ],
        """
        def use(args, ctx):
            return [args["callback"](1), args["callback"]]
        def run(context):
            ir = context["interface_registry"]
            ir.register("use", use)
            ir.register("make", lambda args, ctx: {"add": lambda n: n + args})
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("use", async (args) => [await args.callback(1), args.callback]);
          await registry.register("make", (args) => ({ add: (n) => n + args }));
        };
        """,
    ),
    "registry": Conversation(
        "Data and callables are registered, one only where none is, one with schemas, and one is refused; one is taken back.",
        [
            *BEGIN, AGENT_FRAME, result(1, 11), AGENT_FRAME, result(2, False), AGENT_FRAME, result(3, 12), AGENT_FRAME, error(4, "denied"), AGENT_FRAME,
            mirror("data", None, {"x": 1}, mine=True, registration=11), call(2, 1, None), AGENT_FRAME, result(5, 1), AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("data", {"x": 1, "when": b"\\x00"})
            ir.register_if_absent("data", 2, ttl=60)
            ir.register_handler("take", lambda args, ctx: ir.unregister("data"), {"type": "null"}, {"type": "integer"})
            try:
                ir.register("other.key", 1)
            except Exception:
                pass
        """,
        """
        exports.run = async ({ registry }) => {
          await registry.register("data", { x: 1, when: Buffer.from([0]) });
          await registry.register("data", 2, null, { if_absent: true, ttl_ms: 60000 });
          const schemas = { input: { type: "null" }, output: { type: "integer" } };
          await registry.register("take", () => registry.unregister([11]), null, { schemas });
          await registry.register("other.key", 1).catch(() => {});
        };
        """,
    ),
    "events": Conversation(
        "SUBSCRIBE, EVENT, PUBLISH, UNSUBSCRIBE; a glob is refused.",
        [
            *BEGIN, AGENT_FRAME, result(1, 21), AGENT_FRAME, error(2, "denied"), AGENT_FRAME, result(3, 11), AGENT_FRAME,
            [51, 0, 21, {"id": "1", "source": "beta", "type": "topic.a", "time": "2031-01-01T00:00:00Z"}, [], {"n": 1}],
            AGENT_FRAME, result(4, 0), call(2, 1, None), AGENT_FRAME, result(5, True), AGENT_FRAME,
        ],
        """
        def run(context):
            bus = context["event_bus"]
            name = bus.subscribe("topic.a", lambda payload: bus.publish("topic.b", payload))
            try:
                bus.subscribe("secret.*", print)
            except Exception:
                pass
            context["interface_registry"].register("stop", lambda: bus.unsubscribe("topic.a", name))
        """,
        """
        exports.run = async ({ registry, events }) => {
          const number = await events.subscribe("topic.a", (payload) => events.publish("topic.b", payload));
          await events.subscribe("secret.*", () => {}).catch(() => {});
          await registry.register("stop", () => events.unsubscribe(number));
        };
        """,
    ),
    "requests": Conversation(
        "Each operation of REQUEST, and one that is refused; an event for the diagnostics wants no answer.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11),
            *(step for at, (operation, args, answer) in enumerate(REQUESTS) for step in (
                call(10 + at, 1, {"operation": operation, "args": args}), AGENT_FRAME, result(2 + at, answer), AGENT_FRAME,
            )),
            call(30, 1, {"operation": "secret.get", "args": {"name": "token"}}), AGENT_FRAME, error(2 + len(REQUESTS), "secret_taken"), AGENT_FRAME,
            call(31, 1, {"operation": "diagnostics.record", "args": {}}), AGENT_FRAME, AGENT_FRAME,
        ],
        """
        def run(context):
            def ask(args, ctx):
                what, given = args["operation"], args["args"]
                part, _, verb = what.partition(".")
                if part == "userdata":
                    data = context["userdata_manager"]
                    if verb == "list":
                        return data.list(given["prefix"])
                    return getattr(data, verb)(*given.values())
                if part == "registry":
                    return context["interface_registry"].get_source(given["key"])
                if part == "permission":
                    return getattr(context["permission_manager"], verb)(given["type"], **given["params"])
                if part == "privilege":
                    return context["privileges"].execute(given["privilege"], **given["params"])
                if part == "secret":
                    try:
                        return context["secrets"].get(given["name"])
                    except Exception as exc:
                        return exc.type
                if part == "journal":
                    return context["install_journal"].record(created=given["created"])
                context["diagnostics"].record(
                    {"ts": 1.5, "phase": "run", "step_id": "one", "handler": "ask", "target": {"kind": "none"}, "meta": {"n": 1}}
                )
            context["interface_registry"].register("ask", ask)
        """,
        """
        exports.run = ({ registry, request, tell }) =>
          registry.register("ask", async ({ operation, args }) => {
            if (operation === "diagnostics.record") {
              const event = { ts: 1.5, phase: "run", step_id: "one", handler: "ask", status: "success", target: { kind: "none" }, error: null, meta: { n: 1 } };
              return tell(operation, event);
            }
            try {
              return await request(operation, args);
            } catch (problem) {
              return problem.busType;
            }
          });
        """,
    ),
    "shutdown": Conversation(
        "What runs is answered, what comes is refused, then the connection ends.",
        [
            AGENT_FRAME, WELCOME, mirror("beta.work", 501), run_phase(), *registered(11),
            call(2, 1, "x"), AGENT_FRAME, [20, 0, 10000], call(3, 1, "y"), AGENT_FRAME, result(2, "done"), AGENT_FRAME,
        ],
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("outer", lambda args, ctx: ir.get("beta.work")(args))
        """,
        """
        exports.run = ({ registry }) => registry.register("outer", (args) => registry.get("beta.work")(args));
        """,
    ),
}
# fmt: on
