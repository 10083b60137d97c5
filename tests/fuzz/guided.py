"""A small coverage-guided fuzzer: keeps the inputs that make watched files take a step they had not taken, and changes those.

Deterministic for one seed. No dependency and no build step, so that it runs wherever the tests do; ``with_atheris`` is the
other engine for the same targets.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

Step = tuple[int, int, int]
MAX_BYTES = 8_192
_HEADS = [
    "c0", "c1", "c2", "c3", "00", "7f", "e0", "ff", "ccff", "cdffff", "ceffffffff", "cfffffffffffffffff", "d080",
    "d38000000000000000", "a0", "a161", "a2fffe", "d9ff", "daffff", "dbffffffff", "c400", "c5ffff", "c6ffffffff",
    "90", "91", "9f", "dcffff", "ddffffffff", "dd000fffff", "80", "81", "8f", "deffff", "dfffffffff", "d40100",
    "d40101", "d401ff", "d40300", "c70a02323033312d30352d3036", "d6ff00000000", "c70cff3b9ac9ff7fffffffffffffff",
    "d7ffffffffffffffffff", "ca7fc00000", "cb7ff8000000000000", "cb8000000000000000",
]  # fmt: skip
TOKENS = [bytes.fromhex(text) for text in _HEADS]
"""Heads of MessagePack values, among them those that announce more than there can be."""


def mutated(random_: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus, changed in one to six places."""
    data = bytearray(random_.choice(corpus))
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        at = random_.randrange(len(data) + 1)
        how = random_.randrange(9)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << random_.randrange(8)
        elif how == 1 and data:
            data[at % len(data)] = random_.randrange(256)
        elif how == 2:
            data[at:at] = random_.choice(TOKENS)
        elif how == 3:
            token = random_.choice(TOKENS)
            data[at : at + len(token)] = token
        elif how == 4:
            del data[at : at + random_.choice((1, 1, 2, 4, 16))]
        elif how == 5:
            part = data[at : at + random_.randrange(1, 40)]
            data[at:at] = part * random_.choice((1, 2, 8))
        elif how == 6:
            other = random_.choice(corpus)
            cut = random_.randrange(len(other) + 1)
            data[at:] = other[cut:]
        elif how == 7:
            data += random_.choice(corpus)
        elif len(data) >= 4:
            at = at % (len(data) - 3)
            (number,) = struct.unpack_from("<I", data, at)
            struct.pack_into("<I", data, at, (number + random_.choice((-4, -1, 1, 4, 256))) & 0xFFFFFFFF)
    return relengthed(random_, bytes(data[:MAX_BYTES]))


def relengthed(random_: random.Random, data: bytes) -> bytes:
    """Half of what looks like one frame with its length gets the length that it has, else nothing behind it is reached."""
    if len(data) > 5 and data[3] == 0 and random_.random() < 0.5:
        return struct.pack("<I", len(data) - 4) + data[4:]
    return data


@dataclass
class Watch:
    """Which steps (from line to line) of the watched files an input took."""

    files: tuple[str, ...]
    steps: set[Step] = field(default_factory=set)
    _known: dict[CodeType, bool] = field(default_factory=dict)

    def run(self, work: Callable[[bytes], None], data: bytes) -> set[Step]:
        """Do it, watched; the steps that it took."""
        self.steps = set()
        sys.settrace(self._enter)
        try:
            work(data)
        finally:
            sys.settrace(None)
        return self.steps

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        code = frame.f_code
        watched = self._known.get(code)
        if watched is None:
            watched = self._known[code] = code.co_filename.endswith(self.files)
        if not watched:
            return None
        steps, identity, last = self.steps, hash((code.co_filename, code.co_firstlineno)), 0

        def line(frame: FrameType, event: str, _arg: Any) -> Any:
            nonlocal last
            if event == "line":
                now = frame.f_lineno
                steps.add((identity, last, now))
                last = now
            return line

        return line


@dataclass
class Result:
    """What a run did."""

    inputs: int
    seconds: float
    steps: int
    kept: list[bytes]
    slowest_s: float


FILES = (
    "rules/frames.py", "rules/values.py", "rules/routing.py", "drivers/link.py", "container_agent.py", "bus/sessions.py", "bus/router.py",
    "bus/registrations.py", "bus/references.py", "bus/streams.py", "bus/in_flight.py", "bus/channels.py", "bus/pack_events.py",
    "bus/pack_requests.py", "bus/mirrors.py", "bus/calls.py", "bus/refusals.py", "bus/host_functions.py", "bus/frame_handlers.py",
    "bus/large.py", "bus/memory.py", "drivers/memory_file.py", "bus/places.py",
)  # fmt: skip


def run(
    work: Callable[[bytes], None], seeds: Iterable[bytes], *, seed: int, inputs: int, seconds: float, report: Callable[[str], None] = lambda _: None
) -> Result:
    """Fuzz until ``inputs`` were tried or ``seconds`` are over. What escapes from ``work`` escapes from here, its input named."""
    random_ = random.Random(seed)
    watch = Watch(FILES)
    seen: set[Step] = set()
    corpus: list[bytes] = []
    kept: list[bytes] = []
    began = time.monotonic()
    slowest = 0.0
    queue = list(dict.fromkeys(seeds))[::-1]
    count = told = 0
    first = len(queue)
    while count < max(inputs, first) and (time.monotonic() - began < seconds or queue):
        data = queue.pop() if queue else mutated(random_, corpus)
        count += 1
        start = time.thread_time()
        try:
            steps = watch.run(work, data)
        except BaseException as exc:
            exc.add_note(f"input {data.hex()} (seed {seed}, number {count})")
            raise
        slowest = max(slowest, time.thread_time() - start)
        if not steps <= seen or count <= first:
            if count > first:
                kept.append(data)
            seen |= steps
            corpus.append(data)
        if time.monotonic() - began > told + 10:
            told = int(time.monotonic() - began)
            report(f"{told} s: {count} inputs, {len(corpus)} kept, {len(seen)} steps, slowest {slowest * 1e3:.0f} ms")
    return Result(count, time.monotonic() - began, len(seen), kept, slowest)
