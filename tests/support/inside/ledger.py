"""A Pack whose code speaks the bus by itself and keeps a ledger: each of its calls is answered exactly once, or it says which was not.

``KEY.drive`` ``{calls, targets, seed}`` makes random calls, some with deadlines that are too short, some cancelled, some
with a long value (in a memory file, or in chunks) or a stream in the arguments, and returns what became of them:
``{answers: {how: count}, twice: […], never: […], strange: […], wrong: […], open: count}``. ``open`` counts the streams
that it passed and of which the host did not give the number back.
"""

import json
import random
import sys
import time

sys.path.insert(0, __file__.rpartition("/")[0])
from wire import REF, msgpack, played

AT_ONCE = 24
PATIENCE_S = 45.0  # longer than the deadline of a call that names none
DRIVE = 1  # the number of the callable that drives
LONG = (300_000, 700_000, 1_500_000, 4_000_000)
ITEM = b"i" * 1000
CREDIT = 16
LENT = 1000  # streams that we pass have larger numbers


class Fed:
    """A stream of ours in the arguments of a call: how many items there are, and who reads them."""

    def __init__(self, most):
        self.most = most
        self.sent = 0
        self.credit = CREDIT
        self.over = False


class Reading:
    """A stream that we were passed: what it is for, and how much came."""

    def __init__(self, asked, stop):
        self.asked = asked  # the call that we are to answer
        self.stop = stop
        self.count = 0
        self.bad = False


class Ledger:
    def __init__(self, wire, name):
        self.wire = wire
        self.name = name
        self.number = 0
        self.open = {}  # id → when it was sent
        self.closed = {}  # id → how it ended
        self.wanted = {}  # id → what a value has to be
        self.streams = set()
        self.twice = []
        self.strange = []
        self.wrong = []
        self.asked = []  # to drive, one after the other
        self.lent = LENT  # the newest number of a stream of ours
        self.fed = {}  # number → a stream of ours that the host holds
        self.readers = {}  # the host's id of the call that reads it → that stream
        self.readings = {}  # id of our call → a stream that we read
        self.served = {}  # the host's id of a call that we are to answer later → id of our reading

    def next(self):
        self.number += 1
        return self.number

    def call(self, key, made, deadline_ms):
        number = self.next()
        self.open[number] = time.monotonic()
        args, refs = made_args(made), []
        if args["how"] == "echo":
            self.wanted[number] = args["blob"]
        elif args["how"] == "read":
            self.lent += 1
            self.fed[self.lent] = Fed(args["seed"] % 40)
            self.wanted[number] = args["seed"] % 40
            args["items"], refs = REF, [[2, self.lent]]
        elif args["how"] == "large":
            self.wanted[number] = None
        body = self.wire.body(args, chunks=made.random() < 0.3)
        self.wire.send(1, number, key, deadline_ms, 0, 0, None, refs, body)
        return number

    def ended(self, number, how):
        if number in self.closed:
            self.twice.append([number, self.closed[number], how])
        elif number not in self.open:
            self.strange.append([number, how])
        else:
            del self.open[number]
            self.closed[number] = how
            self.streams.discard(number)
            self.wanted.pop(number, None)

    def valued(self, number, value):
        """A call of ours was answered with a value."""
        how = "value"
        if number in self.wanted:
            wanted = self.wanted[number]
            if wanted is None:
                how, right = "large", len(value) == 2 << 20
            elif isinstance(wanted, bytes):
                how, right = "echo", value == wanted
            else:
                how = "read whole" if value["whole"] else "read in part"
                right = not value["bad"] and value["read"] <= wanted and (not value["whole"] or value["read"] == wanted)
            if not right:
                self.wrong.append([number, how, repr(value)[:200]])
        self.ended(number, how)

    def take(self, got):
        kind, number = got[0], got[1]
        if kind == 9:  # the agent whose connection this was said that it takes them
            for item in got[3]:
                self.take([5, number, [], item])
        elif kind in (2, 3, 5, 6):
            if number in self.readings:
                self.read_on(kind, number, got)
            else:
                self.answered(kind, number, got)
        elif kind == 1:
            self.called(number, got)
        elif kind in (4, 7):
            self.told(kind, number, got)
        elif kind == 8:
            self.wire.piece(number, got[2])
        elif kind == 21:
            self.wire.send(22, number, {"threads": 1, "stuck": 0, "calls": 0})
        elif kind == 37:
            for one in got[2]:
                self.fed.pop(one, None)
        elif kind == 20:
            raise SystemExit(0)

    def answered(self, kind, number, got):
        """A frame of the answer to a call of ours."""
        if kind == 2 and got[2] & 1:
            if number in self.closed or number in self.streams:
                self.twice.append([number, "stream", "again"])
            self.streams.add(number)
        elif kind == 2:
            self.valued(number, self.wire.whole(got[4]))
        elif kind == 3:
            self.ended(number, got[2])
        elif kind == 6:
            self.ended(number, "stream " + (got[2][0] if got[2] else "whole"))
        elif number not in self.streams:
            self.strange.append([number, "item"])
        else:
            self.wire.send(7, number, 1)

    def called(self, number, got):
        ref = got[2]
        if ref == DRIVE:
            self.asked.append(got)
        elif ref in self.fed:
            self.fed_by(number, self.fed[ref])
        elif ref > LENT:
            self.strange.append([ref, "is read, and its number was given back"])
        else:
            self.serve(number, self.wire.whole(got[-1]), got[-2])

    def told(self, kind, number, got):
        """CANCEL or STREAM_CREDIT of a call that we serve."""
        if number in self.readers:
            self.feed(number, 0 if kind == 4 else got[2], left=kind == 4)
        elif kind == 4 and number in self.served:
            self.wire.send(3, number, "cancelled", "", "", False, "")
            asked = self.served.pop(number)
            if asked in self.readings:
                self.wire.send(4, asked)

    # --- streams that we pass

    def fed_by(self, number, fed):
        """The host reads a stream of ours."""
        if fed in self.readers.values():
            self.twice.append([number, "a stream", "is read again"])
        self.readers[number] = fed
        self.wire.send(2, number, 1, [], None)
        self.feed(number, 0)

    def feed(self, number, credit, left=False):
        fed = self.readers[number]
        fed.credit += credit
        while not left and fed.sent < fed.most and fed.credit:
            self.wire.send(5, number, [], [fed.sent, len(ITEM), ITEM])
            fed.sent, fed.credit = fed.sent + 1, fed.credit - 1
        if left or fed.sent == fed.most:
            self.wire.send(6, number, ["cancelled", "", "", False, ""] if left else None)
            del self.readers[number]

    # --- what we are asked

    def serve(self, number, args, refs):
        """Somebody calls us: answered at once, or when what it passed was read."""
        how = args.get("how")
        if how == "read":
            source = refs[msgpack.unpackb(args["items"].data)][1]
            asked = self.next()
            self.readings[asked] = Reading(number, args["seed"] % 9 if args["seed"] % 3 == 0 else None)
            self.served[number] = asked
            self.wire.send(1, asked, source, 0, number, 0, None, [], None)
            return
        value = args["blob"] if how == "echo" else b"x" * (2 << 20) if how == "large" else ["from", self.name]
        self.wire.send(2, number, 0, [], self.wire.body(value, chunks=number % 3 == 0))

    def read_on(self, kind, number, got):
        reading = self.readings[number]
        if kind == 5:
            place, size, data = self.wire.whole(got[3])
            if place != reading.count or len(data) != size:
                reading.bad = True
            reading.count += 1
            self.wire.send(7, number, 1)
            if reading.count == reading.stop:  # enough: answered with the stream still open, which the host has to end
                self.answer(reading, whole=False)
        elif kind in (3, 6):
            del self.readings[number]
            error = got[2] if kind == 3 else got[2] and got[2][0]
            self.answer(reading, whole=not error, error=error)

    def answer(self, reading, whole, error=None):
        if self.served.pop(reading.asked, None) is None:
            return  # answered, or given up by who asked
        if error:
            self.wire.send(3, reading.asked, "ledger/" + error.replace("/", "."), "", "", False, "")
        else:
            self.wire.send(2, reading.asked, 0, [], {"bad": reading.bad, "read": reading.count, "whole": whole})

    # --- what it is for

    def pump(self, until, done):
        while not done() and time.monotonic() < until:
            got = self.wire.read(until)
            if got is not None:
                self.take(got)

    def drive(self, told):
        made = random.Random(told["seed"])
        first = self.number
        for _ in range(told["calls"]):
            self.pump(time.monotonic() + PATIENCE_S, lambda: len(self.open) < AT_ONCE)
            number = self.call(made.choice(told["targets"]), made, made.choice((0, 0, 0, 5, 50, 2000)))
            if made.random() < 0.15:
                self.wire.send(4, number)
        self.pump(time.monotonic() + PATIENCE_S, lambda: not self.open)
        self.pump(time.monotonic() + 5, lambda: not self.fed)
        self.pump(time.monotonic() + 0.2, lambda: False)  # a second answer would come now
        answers = {}
        for number, how in self.closed.items():
            if number > first:
                answers[how] = answers.get(how, 0) + 1
        found = {"answers": answers, "never": sorted(self.open), "open": len(self.fed)}
        found.update(twice=self.twice[:20], strange=self.strange[:20], wrong=self.wrong[:20])
        self.open, self.closed, self.fed = {}, {}, {}
        self.twice, self.strange, self.wrong = [], [], []
        return found


def made_args(made):
    args = {
        "depth": made.choice((0, 0, 1, 2, 3)), "seed": made.randrange(1 << 30), "size": made.choice((0, 10, 1000, 100_000)),
        "nap": made.choice((0, 0, 0, 0.002, 0.02, 0.2)),
        "how": made.choice(("value", "value", "value", "raise", "stream", "deep", "large", "echo", "read", "read")),
    }
    if args["how"] == "echo":
        args["blob"] = bytes([args["seed"] & 255]) * made.choice(LONG)
    return args


def main(wire):
    with open("/pack/backend/ecosystem.json") as told:  # noqa: PTH123 - as little as possible is imported inside
        name = json.load(told)["pack_id"]
    wire.begin([f"{name}.drive", f"{name}.work"])
    ledger = Ledger(wire, name)
    while True:
        while ledger.asked:
            got = ledger.asked.pop(0)
            wire.send(2, got[1], 0, [], ledger.drive(got[-1]))
        got = wire.read()
        if got[0] == 18:  # a later phase: it has nothing to run
            wire.send(19, got[1], {"ok": True, "error": None, "registered": [], "duration_us": 1, "asynchronous": False})
        else:
            ledger.take(got)


if __name__ == "__main__":
    played(main)
