"""One Pack that streams and one that may read it, on a bus with raw agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from core_runtime.bus.sessions import Session
from core_runtime.bus.streams import HostStream
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import CALL, HELLO, RESULT, RawAgent, Rig, rig

Story = Callable[[Rig, RawAgent, Session, RawAgent], Awaitable[Any]]


class OneByOne(RawAgent):
    """An agent that takes no batches."""

    def hello(self) -> None:
        self.send(HELLO, 0, {"protocols": [1], "agent": "raw", "python": "3", "codec": "c", "probe": {"uid": 0}})


def with_stream(
    story: Story,
    folder: Any,
    *,
    kind: type[RawAgent] = RawAgent,
    schemas: dict[str, Any] | None = None,
    limits: BusLimits | None = None,
) -> Any:
    """What ``story`` gives, told the rig, who provides ``k``, its session, and who may call it."""

    async def main() -> Any:
        async with rig(folder, limits=limits) as r:
            r.kind = kind
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k", schemas=schemas)
            b, _ = await r.agent("b", calls={"k"})
            await b.mirror("k")
            return await asyncio.wait_for(story(r, a, session, b), 20)

    return asyncio.run(main())


async def opened(a: RawAgent) -> int:
    """Answer the call that comes with a stream; its number."""
    frame = await a.until(CALL)
    a.send(RESULT, frame[1], 1, [], None)
    return int(frame[1])


async def read_by_host(r: Rig, a: RawAgent) -> tuple[HostStream, int]:
    """A stream that host code reads, and the number of its call."""
    call = asyncio.ensure_future(r.bus.call("k"))
    number = await opened(a)
    stream: HostStream = await call
    return stream, number
