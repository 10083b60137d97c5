"""Callables that cross a border: who owns them, who holds them, when they die.

Invariants:
  * A number means something on one connection only. The host hands every receiver numbers of its own and never reuses
    one, so a late RELEASE can't hit another callable.
  * A reference reaches its receiver and comes home, nothing else: passing one on to a third Pack is refused.
  * It dies with its owner's connection, with its holder's, and with the edge under which it was handed out; a stream in
    the arguments of a call dies with that call, what stands in the registry with its registration.
  * What was handed out in a frame that did not go out is taken back: a receiver's numbers are spent by what it got.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core_runtime.bus.sources import reader_of
from core_runtime.rules.frames import HELD, OWN, SOURCE
from core_runtime.rules.values import ValueProblem

if TYPE_CHECKING:
    from core_runtime.bus.calls import Call, CallContext, HostContext
    from core_runtime.bus.sessions import Session
    from core_runtime.interface_registry import Entry


class RemoteCallable:
    """A Pack's callable in the host's hands: ``await handle(args)`` runs it inside that Pack's sandbox."""

    __slots__ = ("__weakref__", "key", "number", "session")

    def __init__(self, session: Session, number: int, key: str = "") -> None:
        self.session = session
        self.number = number
        self.key = key
        session.references.keep(number)
        weakref.finalize(self, _dropped, weakref.ref(session), number).atexit = False

    def __call__(
        self,
        args: Any = None,
        ctx: CallContext | HostContext | None = None,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Awaitable[Any]:
        """Call it; the result is a value, or an async iterator where the Pack streams."""
        return self.session.router.invoke(self, args, context=ctx, timeout_s=timeout_s, idempotency_key=idempotency_key)

    @property
    def pack_id(self) -> str:
        """Owner."""
        return self.session.pack_id

    @property
    def alive(self) -> bool:
        """False once the owner's connection has ended."""
        return not self.session.dead

    def __repr__(self) -> str:
        return f"<callable {self.key or self.number} of {self.pack_id}>"


def _dropped(session: weakref.ref[Session], number: int) -> None:
    """Finalizer, on whatever thread the collector runs."""
    alive = session()
    if alive is not None and not alive.dead:
        alive.loop.call_soon_threadsafe(alive.references.drop, number)


class Handle:
    """What a number that the host handed out stands for. ``edge`` is (session, key): asked before each use.

    ``entry`` is the registration that it was mirrored with. ``feeds`` is the call whose argument a stream is; ``read``
    the call that reads it.
    """

    __slots__ = ("edge", "entry", "feeds", "fn", "key", "number", "owner", "pinned", "read")

    def __init__(
        self,
        owner: Session | None,
        number: int,
        *,
        fn: Callable[..., Any] | None = None,
        edge: tuple[Session, str] | None = None,
        key: str = "",
        pinned: bool = False,
        feeds: Call | None = None,
        entry: Entry | None = None,
    ) -> None:
        self.owner = owner
        self.number = number
        self.fn = fn
        self.edge = edge
        self.key = key
        self.pinned = pinned
        self.entry = entry
        self.feeds = feeds
        self.read: Call | None = None

    def usable(self) -> bool:
        """Whether owner, registration and edge still stand; of a stream, whether its call runs, and nobody read it."""
        if not self.stands():
            return False
        if self.feeds is not None:
            return self.read is None and not (self.feeds.done or self.feeds.abandoned)
        if self.edge is None:
            return True
        session, key = self.edge
        return not session.dead and session.may_reach(key)

    def stands(self) -> bool:
        """Whether its owner lives, and it is registered still if it was: who does not read was not told otherwise."""
        if self.owner is not None and self.owner.dead:
            return False
        if self.entry is None or self.edge is None:
            return True
        slot = self.edge[0].world.slot(self.entry.key)
        return slot is not None and any(one is self.entry for one in slot.visible)

    def claim(self) -> bool:
        """Whether what is ``usable`` may be called: an edge that was granted for one use is spent by it."""
        if self.edge is None:
            return True
        session, key = self.edge
        rights = session.rights()
        return rights.may_call(key) or rights.may_register(key)


class References:
    """Both directions of one connection: numbers handed to the agent, and the agent's own numbers held for others."""

    def __init__(self, session: Session, limit: int) -> None:
        self._session = session
        self._limit = limit
        self._numbers = itertools.count(1)
        self.held: dict[int, Handle] = {}
        self._own: dict[int, int] = {}
        self._released: list[int] = []
        self.takes_sources = False
        """Whether the agent said that it reads streams in arguments."""

    # --- the agent holds

    def hand_out(self, handle: Handle) -> int:
        """A new number for the agent."""
        if len(self.held) >= self._limit:
            raise ValueProblem("limit", f"the receiver already holds {self._limit} callables")
        number = next(self._numbers)
        self.held[number] = handle
        if handle.owner is not None:
            handle.owner.references.keep(handle.number)
        return number

    def repoint(self, number: int, value: Callable[..., Any], entry: Entry) -> None:
        """A number that the agent holds stands for another callable from now on, of a Pack or the host: ``entry``'s."""
        handle = self.held.get(number)
        if handle is None:
            return
        handle.entry = entry
        before, there = handle.owner, handle.number
        if isinstance(value, RemoteCallable):
            value.session.references.keep(value.number)
            handle.owner, handle.number, handle.fn = value.session, value.number, None
        else:
            handle.owner, handle.number, handle.fn = None, 0, value
        if before is not None:
            before.references.drop(there)

    def released(self, numbers: Sequence[int]) -> None:
        """The agent holds these no longer. What the registry mirrors lives as long as its registration."""
        # a frame may name tens of thousands: those that mean nothing are left out without a step of ours for each
        for number in self.held.keys() & numbers:
            handle = self.held.get(number)
            if handle is not None and not handle.pinned:
                self.take_back(number)

    def take_back(self, number: int) -> None:
        """Forget a number handed out; later uses are dead references."""
        handle = self.held.pop(number, None)
        if handle is not None and handle.owner is not None:
            handle.owner.references.drop(handle.number)

    def reads(self, number: int, call: Call) -> None:
        """The agent's ``call`` reads the stream behind a number, if there is one."""
        handle = self.held.get(number)
        if handle is not None and handle.feeds is not None:
            handle.read, call.feeds = call, handle.feeds

    def withdraw(self, refs: Sequence[tuple[int, int]]) -> None:
        """Take back what was handed out in a frame that did not go out."""
        for space, number in refs:
            if space != HELD:
                self.take_back(number)

    # --- others hold

    def keep(self, number: int) -> None:
        """One more holder of an agent's number."""
        self._own[number] = self._own.get(number, 0) + 1

    def drop(self, number: int) -> None:
        """One holder less; with the last one the agent is told, once a turn."""
        count = self._own.get(number, 0) - 1
        if count > 0:
            self._own[number] = count
            return
        if self._own.pop(number, None) is None or self._session.dead:
            return
        if not self._released:
            self._session.loop.call_soon(self._tell_released)
        self._released.append(number)

    def settle(self, refs: Sequence[tuple[int, int]]) -> None:
        """After a frame was dealt with: what the agent offered in it and nobody took is given back."""
        for space, number in refs:
            if space != HELD and number not in self._own:
                self.keep(number)
                self.drop(number)

    def _tell_released(self) -> None:
        numbers = [number for number in dict.fromkeys(self._released) if number not in self._own]
        self._released = []
        if numbers:
            self._session.send_release(numbers)

    # --- translation

    def translate(
        self,
        refs: Sequence[tuple[int, int]],
        receiver: Session,
        edge: tuple[Session, str] | None,
        call: Call | None = None,
    ) -> list[tuple[int, int]]:
        """References of a frame from this agent, as ``receiver`` must see them. Raises ``ValueProblem``.

        ``call``: the one whose arguments they are.
        """
        translated: list[tuple[int, int]] = []
        try:
            for space, number in refs:
                if space == OWN:
                    if receiver is self._session:
                        translated.append((HELD, number))
                    else:
                        handle = Handle(self._session, number, edge=edge)
                        translated.append((OWN, receiver.references.hand_out(handle)))
                elif space == SOURCE and call is not None:
                    translated.append((SOURCE, receiver.references.feed(Handle(self._session, number, feeds=call))))
                else:
                    translated.append((HELD, self._home(number, receiver)))
        except ValueProblem:
            receiver.references.withdraw(translated)
            raise
        return translated

    def feed(self, handle: Handle) -> int:
        """A number for a stream in the arguments of a call to the agent. Raises ``ValueProblem``."""
        call = handle.feeds
        if call is None:
            raise ValueProblem("value.unsupported", "a stream can be passed in arguments only")
        if not self.takes_sources:
            raise ValueProblem("value.unsupported", "the receiver reads no streams in arguments")
        if call.sources is None:
            call.sources = []
        if len(call.sources) >= self._session.limits.sources:
            raise ValueProblem("limit", f"the arguments hold more than {self._session.limits.sources} streams")
        number = self.hand_out(handle)
        call.sources.append(number)
        return number

    def resolver(self, refs: Sequence[tuple[int, int]], key: str, *, lasting: bool = False) -> Callable[[int], Any]:
        """For decoding a body of this agent in the host: index into ``refs`` → callable, the same for the same.

        ``lasting``: others will reach it by the registry, so it is the agent's own.
        """
        known: dict[int, RemoteCallable] = {}

        def resolve(index: int) -> Any:
            if not 0 <= index < len(refs):
                raise ValueProblem("value.malformed", f"reference {index} of {len(refs)}")
            space, number = refs[index]
            if space == SOURCE:
                raise ValueProblem("value.unsupported", "the host reads no streams in arguments")
            if space == OWN:
                # a body may name one index a hundred thousand times
                found = known.get(index)
                if found is None:
                    found = known[index] = RemoteCallable(self._session, number, key)
                return found
            if lasting:  # whoever reaches the key would call it, without the edge to it and after it was withdrawn
                title = "only a callable of its own can be registered: register a function that calls the other"
                raise ValueProblem("value.unsupported", title)
            handle = self._held(number)
            if handle.fn is not None:
                return handle.fn
            assert handle.owner is not None
            return RemoteCallable(handle.owner, handle.number, handle.key)

        return resolve

    def exporter(self, refs: list[tuple[int, int]], call: Call | None = None) -> Callable[[Any], int]:
        """For encoding a value of the host's for this agent: callables are appended to ``refs``, and the streams in the
        arguments of ``call``.
        """

        def export(value: Any) -> int:
            if isinstance(value, Iterator | AsyncIterator):
                refs.append((SOURCE, self.feed(Handle(None, 0, fn=reader_of(value), feeds=call))))
            elif isinstance(value, RemoteCallable):
                if value.session is not self._session:
                    raise ValueProblem("value.unsupported", "a callable of another Pack can't be passed on")
                refs.append((HELD, value.number))
            else:
                refs.append((OWN, self.hand_out(Handle(None, 0, fn=value))))
            return len(refs) - 1

        return export

    def _home(self, number: int, receiver: Session) -> int:
        handle = self._held(number)
        if handle.owner is not receiver:
            raise ValueProblem("dead_reference", "a reference can't be passed on to a third Pack")
        return handle.number

    def _held(self, number: int) -> Handle:
        handle = self.held.get(number)
        if handle is None or not handle.usable():
            raise ValueProblem("dead_reference", "a reference that is no longer held")
        return handle

    def clear(self) -> None:
        """The connection ended: give back everything the agent held."""
        for number in list(self.held):
            self.take_back(number)
        self._own.clear()
