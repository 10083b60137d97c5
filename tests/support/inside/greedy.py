"""A Pack whose code speaks the bus by itself and takes what threads of ``server`` it can: ``greedy.take`` ``{kind}`` holds them.

They stay held after the answer, which says how many calls went out and how many of them ``server`` began to serve.
"""

import sys
import time

sys.path.insert(0, __file__.rpartition("/")[0])
from wire import Wire

HOUR_MS = 3_600_000
DEPTH = 32
FLAT = 60
"""Calls that take what all depths share, before the others go for what each depth has of its own."""
SETTLED_S = 2.0


class Greedy:
    def __init__(self, wire):
        self.wire = wire
        self.number = 1 << 16
        self.sent = 0
        self.begun = set()
        self.late = 0
        self.up = 0

    def call(self, key, body=None, parent=0, deadline_ms=HOUR_MS):
        self.number += 1
        self.wire.send(1, self.number, key, deadline_ms, parent, 0, None, [], body)
        return self.number

    def hold(self, key, body, parent=0):
        self.sent += 1
        self.call(key, body, parent)

    def served(self, got):
        """What every frame means that is not awaited just now; a call of ours of ourselves is left unanswered."""
        if got[0] == 21:
            self.wire.send(22, got[1], {"threads": 1, "stuck": 0, "calls": 0})
        elif got[0] in (2, 5):
            self.begun.add(got[1])
        elif got[0] == 3:
            self.late += got[2] == "timeout"

    def settle(self, seconds=SETTLED_S):
        until = time.monotonic() + seconds
        while True:
            got = self.wire.read(until)
            if got is None:
                return
            self.served(got)

    def deeper(self, parent):
        """The id of a call one deeper than the one that is ``parent``'s: ourselves, called by ourselves."""
        self.call("greedy.self", None, parent)
        return self.incoming(2)

    def incoming(self, ref):
        """The id of the next call of our own callable ``ref``; None when none comes."""
        until = time.monotonic() + SETTLED_S
        while True:
            got = self.wire.read(until)
            if got is None:
                return None
            if got[0] == 1 and got[2] == ref:
                return got[1]
            self.served(got)

    def streams(self):
        """As many streams as it may open, none of which is ever read."""
        for _ in range(400):
            self.hold("server.count", 10**9)

    def depths(self):
        """A few calls that do not end, at every depth there is."""
        parent = 0
        for _ in range(FLAT):
            self.hold("server.slow", 10**6)
        for _ in range(DEPTH):
            parent = self.deeper(parent)
            assert parent
            for _ in range(8):
                self.hold("server.count" if self.sent % 2 else "server.slow", 10**6, parent)

    def returns(self):
        """Calls that come back: ``server`` calls it, and from there it calls ``server``, eight times each time."""
        parent = 0
        for _ in range(DEPTH // 2):
            self.call("server.back", None, parent)
            came = self.incoming(3)
            for _ in range(8 if parent else FLAT):
                self.hold("server.slow", 10**6, parent)
            if came is None:
                return
            parent = came

    def behind(self):
        """Calls with the usual deadline behind those that hold everything: the number of those that were told to be late."""
        before = self.late
        for _ in range(40):
            self.call("server.echo", None, 0, 0)
        self.settle(33)
        return self.late - before


def main():
    wire = Wire(sys.argv)
    wire.begin(["greedy.take", "greedy.self", "greedy.back"])
    greedy = Greedy(wire)
    while True:
        got = wire.read()
        if got[0] == 1 and got[2] == 1:
            kind = got[-1]["kind"]
            if kind == "behind":
                answer = greedy.behind()
            else:
                getattr(greedy, kind)()
                greedy.settle()
                answer = {"sent": greedy.sent, "begun": len(greedy.begun)}
            wire.send(2, got[1], 0, [], answer)
        elif got[0] == 18:
            wire.send(19, got[1], {"ok": True, "error": None, "registered": [], "duration_us": 1, "asynchronous": False})
        elif got[0] == 20:
            return
        else:
            greedy.served(got)


if __name__ == "__main__":
    main()
