"""Channels under every order of frames: the host never fails, what it holds is bounded, and nothing outlives a session."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core_runtime.bus.channels import ITEM_BYTES, Channel
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import CANCEL, CREDIT, END, ERROR, ITEM, REQUEST, RESULT, Rig, eventually, rig

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "item", "end", "fail", "credit", "cancel", "large", "text", "drain"]),
        st.integers(0, 3),
        st.integers(0, 40),
    ),
    max_size=40,
)


async def echo(channel: Channel, _operation: str, args: Mapping[str, Any]) -> None:
    """Sends back what it gets, and ``size`` items beside."""
    channel.open()
    for _ in range(int(args.get("size", 0))):
        await channel.write(b"x")
    while data := await channel.read():
        await channel.write(data)
    channel.end()


async def play(folder: str, steps: list[tuple[str, int, int]]) -> None:
    async with rig(folder, limits=BusLimits(channels=4)) as built:
        built.bus.channels["test.echo"] = echo
        agent, session = await built.agent("fuzzer")
        other, _ = await built.agent("other")
        ups: list[int] = []
        for step, which, size in [("open", 0, 3), *steps]:
            up = ups[which % len(ups)] if ups else 7
            number = which + 1
            if step == "open":
                agent.send(REQUEST, agent.next_id(), "test.echo", 0, [], {"size": size})
            elif step == "item":
                agent.send(ITEM, up, [], b"y" * (size + 1))
            elif step == "end":
                agent.send(END, up, None)
            elif step == "fail":
                agent.send(END, up, ["error/X", "t", "d", False, ""])
            elif step == "credit":
                agent.send(CREDIT, number, size * 1_000_000)
            elif step == "cancel":
                agent.send(CANCEL, number)
            elif step == "large":
                agent.send(ITEM, up, [], b"z" * (ITEM_BYTES + 1))
            elif step == "text":
                agent.send(ITEM, up, [], "text")
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(0.002):
                    while frame := await agent.read():
                        if frame[0] == RESULT:
                            ups.append(frame[4]["up"])
            if session.dead:
                break
        await fine(built, other)
        await agent.close()
        await eventually(lambda: session.dead)
        assert not session.channels._by_number or await eventually(lambda: not session.channels._by_number)
        assert not session.channels._by_up or await eventually(lambda: not session.channels._by_up)


async def fine(built: Rig, other: Any) -> None:
    """Somebody else is served, and no code of the host failed."""
    other.send(REQUEST, 1, "test.echo", 0, [], {})
    assert (await other.answer(1))[0] in {RESULT, ERROR}
    assert not [issue for issue in built.diagnostics.issues() if issue.code not in {"bus_protocol", "stray_answer"}]


@given(STEPS)
@settings(max_examples=40)
def test_any_order_of_frames(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:
        asyncio.run(play(folder, steps))
