"""The page of a run that goes on while the run does: each step is a line more as it ends, with scripts off as well.

Invariants:
  * What was sent is never touched again; how the run ended is told below it.
  * A page has an end: at most ``ROWS`` steps are listed, and the host's bound on open streams counts it.

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
    headers = desk.pages.headers(reader)
    return PageStream(desk.api.streams, _pieces(desk, reader, run, drawn), headers)


async def _pieces(desk: Desk, reader: Reader, run: View, drawn: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    numbers = drawn["numbers"]
    whole = desk.pages.text(
        "run.html", reader, run={**run, "steps": []}, going=True, live=True, streams=True, marks=MARKS,
        output="", **drawn,
    )  # fmt: skip
    head, rest = whole.split(STEPS)
    before, after = rest.split(END)
    yield head.encode()
    seen = listed = 0
    named: set[int] = set()
    begun: set[int] = set()
    while run["status"] == "running":
        begins = {numbers[path] for path in run["going"] if path in numbers} - begun
        begun |= begins
        if begins:
            yield "".join(map(_going, sorted(begins))).encode()
        run, ended, steps = await desk.host.news(run["run_id"], seen)
        steps = steps[: ROWS - listed]
        seen, listed = ended, listed + len(steps)
        lines = []
        for step in steps:
            number = numbers.get(step["step"]) if step["flow"] == run["flow"] else None
            about = {"step": step, "run_flow": run["flow"], "at": number, "first": number not in named}
            lines.append(desk.pages.text("run_step.html", reader, **about))
            if number is not None:
                named.add(number)
        if lines:
            yield "".join(lines).encode()
    yield (before + desk.pages.text("run_end.html", reader, run=run, left_out=seen - listed) + after).encode()


def _going(number: int) -> str:
    """What tells the drawing that a step has begun, and no reader."""
    return f'<tr hidden class="at{number} s-going"></tr>\n'
