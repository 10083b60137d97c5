"""Channels: bytes both ways between something inside a sandbox and something that the host opened for it.

A channel begins as a REQUEST of the agent. The host answers with a RESULT that opens a stream (host to agent, under the
request's id) and names in its body the id under which the agent streams back (``{up: id}``, an id of the host's). Each
direction has items, credit and an end of its own; CANCEL, or an end with an error, ends both.

Invariants:
  * A direction has no more items under way than its reader granted, and no item is longer than ``ITEM_BYTES``: what one
    channel holds in memory is bounded, whoever does not read.
  * More than the window is never owed to a reader, whatever credit it claims to grant.
  * What is written waits while the Pack leaves the connection unread: the backlog of the bus is not spent on it.
  * A channel ends with its session.

Not here: what is at the host's end (``egress``), and the right to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from backend_core.errors import PackError
from core_runtime.bus.calls import Failure
from core_runtime.diagnostics import Diagnostics, fail_soft
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_STREAM, FrameError
from core_runtime.rules.routing import granted_credit
from core_runtime.rules.values import ValueProblem, unpack

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

_decode_bytes = msgspec.msgpack.Decoder(bytes).decode

ITEM_BYTES = 32 * 1024
ARGUMENT_BYTES = 64 * 1024
ARGUMENT_NODES = 1_024

Serve = Callable[["Channel", str, Mapping[str, Any]], Awaitable[None]]
"""Opens the channel and moves its bytes; the channel ends when it returns or raises."""


class ChannelReset(PackError):  # noqa: N818 - named as its sentence reads
    """The other end gave the channel up."""

    default_code = "cancelled"


class Channel:
    """The host's end. Belongs to the event loop's thread; one reader and one writer at a time."""

    def __init__(self, session: Session, number: int, up: int) -> None:
        self.session = session
        self.number = number
        self.up = up
        self.opened = False
        self.task: asyncio.Task[None] | None = None
        self._window = session.limits.stream_credit
        self._credit = self._window
        self._owed = self._window
        self._taken = 0
        self._items: deque[bytes] = deque()
        self._finished = False
        self._reset = ""
        self._sent_end = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def pack_id(self) -> str:
        """Whose channel it is."""
        return self.session.pack_id

    @property
    def finished(self) -> bool:
        """Whether the agent has ended its direction."""
        return self._finished

    # --- for whoever serves the channel

    def open(self) -> None:
        """Tell the agent that it may stream."""
        self.opened = True
        self.session.send((frames.RESULT, self.number, FLAG_STREAM, (), {"up": self.up}))

    async def write(self, item: Any) -> None:
        """Send one item, when the reader has room. Raises ``ChannelReset``."""
        while not self._reset and (self._credit <= 0 or self.session.congested):
            self._room.clear()
            await self._room.wait()
        self._check()
        self._credit -= 1
        self.session.send((frames.STREAM_ITEM, self.number, (), item))

    def end(self) -> None:
        """Nothing more goes to the agent; it may still send."""
        if not self._sent_end and self.opened:
            self._sent_end = True
            self.session.send((frames.STREAM_END, self.number, None))

    async def read(self) -> bytes:
        """The next bytes, ``b""`` when the agent has ended its direction. Raises ``ChannelReset``."""
        while not self._items:
            self._check()
            if self._finished:
                return b""
            self._changed.clear()
            await self._changed.wait()
        self._check()
        item = self._items.popleft()
        self._taken += 1
        if self._taken * 2 >= self._window and not self._finished:
            granted, self._taken = self._taken, 0
            self._owed += granted
            self.session.send((frames.STREAM_CREDIT, self.up, granted))
        return item

    def reset(self, reason: str) -> None:
        """End both directions at once; whoever serves the channel meets ``ChannelReset``."""
        if not self._reset:
            self._reset = reason
            self._items.clear()
            self._changed.set()
            self._room.set()

    def give_up(self, reason: str) -> None:
        """``reset``, and an end to whatever serves the channel, wherever it waits."""
        self.reset(reason)
        if self.task is not None:
            self.task.cancel()

    def _check(self) -> None:
        if self._reset:
            raise ChannelReset("The channel was given up", detail=self._reset, pack_id=self.pack_id)

    # --- from the agent

    def arrived(self, frame: frames.ItemFrame) -> None:
        """STREAM_ITEM, within the credit that was granted."""
        if self._owed <= 0:
            raise FrameError("more items than the host granted")
        if frame.refs or self._finished:
            raise FrameError("a channel carries bytes, until its end")
        self._owed -= 1
        try:
            data = _decode_bytes(frame.body)
        except (msgspec.DecodeError, ValueError) as exc:
            raise FrameError(f"a channel carries bytes: {str(exc)[:100]}") from exc
        if not 0 < len(data) <= ITEM_BYTES:
            raise FrameError(f"a channel carries 1 to {ITEM_BYTES} bytes at a time")
        if not self._reset:
            self._items.append(data)
            self._changed.set()

    def granted(self, count: int) -> None:
        """STREAM_CREDIT; what would exceed the window is swallowed."""
        self._credit += granted_credit(self._credit, count, self._window)
        self._room.set()

    def ended(self, failure: Failure | None) -> None:
        """STREAM_END."""
        self._finished = True
        if failure is not None:
            self.give_up(f"the Pack ended it: {failure.type}")
        self._changed.set()

    def wake(self) -> None:
        """The connection has room again."""
        self._room.set()

    def close(self, error: BaseException | None) -> None:
        """Served: tell the agent how it ended."""
        failure = None if error is None else Failure.of(error)
        if not self.opened:
            self.session.send_error(self.number, failure or Failure("cancelled", "it was never opened"))
        elif not self._sent_end or failure is not None:
            self.session.send((frames.STREAM_END, self.number, failure.frame_fields() if failure else None))
        self._sent_end = True
        self.reset("it has ended")


class Channels:
    """All channels of one session."""

    def __init__(self, session: Session, serve: Mapping[str, Serve], diagnostics: Diagnostics) -> None:
        self._session = session
        self._serve_for = serve
        self._diagnostics = diagnostics
        self._by_number: dict[int, Channel] = {}
        self._by_up: dict[int, Channel] = {}

    def serves(self, operation: str) -> bool:
        """Whether an operation opens a channel."""
        return operation in self._serve_for

    @property
    def any_open(self) -> bool:
        """Whether one is being served."""
        return bool(self._by_number)

    def __contains__(self, host_id: int) -> bool:
        return host_id in self._by_up

    def take(self, frame: frames.RequestFrame) -> None:
        """REQUEST of an operation that opens a channel."""
        session = self._session
        if frame.id == 0 or frame.id in self._by_number:
            raise FrameError(f"request id {frame.id} can't open a channel")
        if len(self._by_up) >= session.limits.channels:
            many = Failure("limit", f"{session.limits.channels} channels are open already", retryable=True)
            session.send_error(frame.id, many)
            return
        try:
            if len(memoryview(frame.body)) > ARGUMENT_BYTES:
                raise ValueProblem("value.too_large", f"arguments have at most {ARGUMENT_BYTES} bytes")  # noqa: TRY301
            args = unpack(frame.body, None, max_nodes=ARGUMENT_NODES)
        except ValueProblem as exc:
            session.send_error(frame.id, Failure(exc.type, str(exc)))
            return
        if not isinstance(args, dict):
            session.send_error(frame.id, Failure("arguments", "the arguments must be a map"))
            return
        channel = Channel(session, frame.id, session.next_id())
        self._by_number[channel.number] = self._by_up[channel.up] = channel
        channel.task = session.loop.create_task(self._serve(channel, frame.operation, args))

    def item(self, frame: frames.ItemFrame) -> bool:
        """Whether the item was one of a channel's."""
        channel = self._by_up.get(frame.id)
        if channel is not None:
            channel.arrived(frame)
        return channel is not None

    def end(self, number: int, failure: Failure | None) -> bool:
        """Whether the end was one of a channel's."""
        channel = self._by_up.get(number)
        if channel is not None:
            channel.ended(failure)
            self._forget(channel)
        return channel is not None

    def credit(self, number: int, count: int) -> None:
        """STREAM_CREDIT for what the host streams."""
        channel = self._by_number.get(number)
        if channel is not None:
            channel.granted(count)

    def cancel(self, number: int) -> None:
        """CANCEL, also while the channel is still being opened."""
        channel = self._by_number.get(number)
        if channel is not None:
            channel.give_up("the Pack gave it up")

    def resume(self) -> None:
        """The connection has room again."""
        for channel in self._by_number.values():
            channel.wake()

    def clear(self) -> None:
        """The session is over."""
        for channel in tuple(self._by_number.values()):
            channel.give_up("its Pack went away")
        self._by_up = {up: channel for up, channel in self._by_up.items() if self._serving(channel)}

    async def _serve(self, channel: Channel, operation: str, args: dict[str, Any]) -> None:
        error: BaseException | None = None
        try:
            with fail_soft(self._diagnostics, channel.pack_id, "channel", step_id=operation, quiet=True) as outcome:
                await self._serve_for[operation](channel, operation, args)
            error = outcome.error
        except asyncio.CancelledError:
            error = ChannelReset("The channel was given up", pack_id=channel.pack_id)
            raise
        finally:
            channel.close(error)
            del self._by_number[channel.number]
            self._forget(channel)

    def _serving(self, channel: Channel) -> bool:
        """Whether it is still being served; its number may be another's since."""
        return self._by_number.get(channel.number) is channel

    def _forget(self, channel: Channel) -> None:
        """What the agent sent before it heard of the end is no stray answer: the id rests until it says END itself."""
        if not self._serving(channel) and (channel.finished or not channel.opened or self._session.dead):
            self._by_up.pop(channel.up, None)
