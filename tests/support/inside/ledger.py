"""A Pack whose code speaks the bus by itself and keeps a ledger: each of its calls is answered exactly once, or it says which was not.

``KEY.drive`` ``{calls, targets, seed}`` makes random calls, some with deadlines that are too short, some cancelled, and returns what
became of them: ``{answers: {how: count}, twice: […], never: […], strange: […]}``.
"""

import json
import random
import sys
import time

sys.path.insert(0, __file__.rpartition("/")[0])
from wire import Wire

AT_ONCE = 24
PATIENCE_S = 45.0  # longer than the deadline of a call that names none
DRIVE = 1  # the number of the callable that drives


class Ledger:
    def __init__(self, wire, name):
        self.wire = wire
        self.name = name
        self.number = 0
        self.open = {}  # id → when it was sent
        self.closed = {}  # id → how it ended
        self.streams = set()
        self.twice = []
        self.strange = []
        self.asked = []  # to drive, one after the other

    def call(self, key, args, deadline_ms):
        self.number += 1
        self.open[self.number] = time.monotonic()
        self.wire.send(1, self.number, key, deadline_ms, 0, 0, None, [], args)
        return self.number

    def ended(self, number, how):
        if number in self.closed:
            self.twice.append([number, self.closed[number], how])
        elif number not in self.open:
            self.strange.append([number, how])
        else:
            del self.open[number]
            self.closed[number] = how
            self.streams.discard(number)

    def take(self, got):
        kind, number = got[0], got[1]
        if kind == 21:
            self.wire.send(22, number, {"threads": 1, "stuck": 0, "calls": 0})
        elif kind == 2 and got[2] & 1:
            if number in self.closed or number in self.streams:
                self.twice.append([number, "stream", "again"])
            self.streams.add(number)
        elif kind == 2:
            self.ended(number, "value")
        elif kind == 3:
            self.ended(number, got[2])
        elif kind == 6:
            self.ended(number, "stream " + (got[2][0] if got[2] else "whole"))
        elif kind == 5:
            if number not in self.streams:
                self.strange.append([number, "item"])
            else:
                self.wire.send(7, number, 1)
        elif kind == 1 and got[2] == DRIVE:
            self.asked.append(got)
        elif kind == 1:  # somebody calls us: served at once
            self.wire.send(2, number, 0, [], ["from", self.name, got[-1]])
        elif kind == 20:
            raise SystemExit(0)

    def drive(self, told):
        made = random.Random(told["seed"])
        first = self.number
        for _ in range(told["calls"]):
            while len(self.open) >= AT_ONCE:
                got = self.wire.read(time.monotonic() + PATIENCE_S)
                if got is None:
                    break
                self.take(got)
            number = self.call(made.choice(told["targets"]), made_args(made), made.choice((0, 0, 0, 5, 50, 2000)))
            if made.random() < 0.15:
                self.wire.send(4, number)
        until = time.monotonic() + PATIENCE_S
        while self.open and time.monotonic() < until:
            got = self.wire.read(until)
            if got is not None:
                self.take(got)
        quiet = time.monotonic() + 0.2  # a second answer would come now
        while (got := self.wire.read(quiet)) is not None:
            self.take(got)
        answers = {}
        for number, how in self.closed.items():
            if number > first:
                answers[how] = answers.get(how, 0) + 1
        never, self.open = sorted(self.open), {}
        twice, self.twice = self.twice[:20], []
        strange, self.strange = self.strange[:20], []
        self.closed = {}
        return {"answers": answers, "twice": twice, "never": never, "strange": strange}


def made_args(made):
    return {
        "depth": made.choice((0, 0, 1, 2, 3)), "seed": made.randrange(1 << 30), "size": made.choice((0, 10, 1000, 100_000)),
        "nap": made.choice((0, 0, 0, 0.002, 0.02, 0.2)), "how": made.choice(("value", "value", "value", "raise", "stream", "deep", "large")),
    }


def main():
    with open("/pack/backend/ecosystem.json") as told:  # noqa: PTH123 - as little as possible is imported inside
        name = json.load(told)["pack_id"]
    wire = Wire(sys.argv)
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
    main()
