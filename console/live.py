"""The page of a run that goes on while the run does: each step is a line more as it ends, with scripts off as well.

Invariants:
  * What was sent is never touched again; how the run ended is told below it.
  * A page has an end, also where the host stops: at most ``ROWS`` steps are listed, and the host's bound on open
    streams counts it.

Not here: the run (``core_runtime.flow_runs``), the page of one that is over (``views``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from console.desk import Desk
from console.pages import Reader
from core_runtime.api.operator import View
from core_runtime.api.sse import PageStream
from core_runtime.rules.sessions import Carrier

ROWS: Final = 1_000
MARKS: Final = {"skipped": "-", "ok": "✓", "cancelled": "■", "timeout": "✗", "failed": "✗", "going": "▶"}
"""What stands in a step's box, beside its colour."""
STEPS: Final = "<!--steps-->"
"""Where in the page steps are put in; no text of a Pack can be that, since it is escaped."""
END: Final = "<!--end-->"


def streams(request: Request, reader: Reader) -> bool:
    """Whether the page can go on: not where the console's own script fetches pages, since it shows whole ones."""
    return request.method == "GET" and not scripted(reader)


def scripted(reader: Reader) -> bool:
    """Whether the console's own script fetches the pages."""
    return reader.session is not None and reader.session.carrier is Carrier.HEADER


def page(desk: Desk, reader: Reader, run: View, drawn: Mapping[str, Any]) -> Response:
    """The answer; ``drawn``: see ``flows.drawn``, and how each step is shown at first.

    ``HostError`` where too many streams are open.
    """
    desk.api.streams.admit()
    followed = _Page(desk, reader, run, drawn)
    return PageStream(desk.api.streams, followed.pieces(), desk.pages.headers(reader), followed.stopped)


class _Page:
    """One that goes on."""

    def __init__(self, desk: Desk, reader: Reader, run: View, drawn: Mapping[str, Any]) -> None:
        self._desk = desk
        self._reader = reader
        self._run = run
        self._drawn = drawn
        self._rest = ""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The beginning, steps as they end, and how the run ended."""
        run, numbers, text = self._run, self._drawn["numbers"], self._desk.pages.text
        whole = text(
            "run.html", self._reader, run={**run, "steps": []}, going=True, live=True, streams=True, marks=MARKS,
            output="", **self._drawn,
        )  # fmt: skip
        head, rest = whole.split(STEPS)
        yield head.encode()
        self._rest = rest
        seen = listed = 0
        named: set[int] = set()
        begun: set[int] = set()
        while run["status"] == "running":
            begins = {numbers[path] for path in run["going"] if path in numbers} - begun
            begun |= begins
            if begins:
                yield "".join(map(_going, sorted(begins))).encode()
            run, ended, steps = await self._desk.host.news(run["run_id"], seen)
            steps = steps[: ROWS - listed]
            seen, listed = ended, listed + len(steps)
            lines = []
            for step in steps:
                number = numbers.get(step["step"]) if step["flow"] == run["flow"] else None
                about = {"step": step, "run_flow": run["flow"], "at": number, "first": number not in named}
                lines.append(text("run_step.html", self._reader, **about))
                if number is not None:
                    named.add(number)
            if lines:
                yield "".join(lines).encode()
        yield self._ended(text("run_end.html", self._reader, run=run, left_out=seen - listed))
        self._rest = ""  # it was sent: a host that stops now has nothing to add

    def stopped(self) -> bytes:
        """The end where the host stops before the run is told to be over."""
        if not self._rest:
            return b""
        return self._ended(self._desk.pages.text("run_stopped.html", self._reader, run=self._run))

    def _ended(self, end: str) -> bytes:
        return self._rest.replace(END, end, 1).encode()


def _going(number: int) -> str:
    """What tells the drawing that a step has begun, and no reader."""
    return f'<tr hidden class="at{number} s-going"></tr>\n'
