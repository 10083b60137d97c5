"""What a Pack's CALL names, if that Pack may reach it.

Invariants:
  * The edge is checked before anything is said about whether the key exists.
  * Asking for something that can't be called spends nothing.

Not here: sending the call there (``router``), what the rights are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend_core.errors import quote
from core_runtime.bus.references import RemoteCallable
from core_runtime.bus.refusals import Refused, refused
from core_runtime.interface_registry import Entry
from core_runtime.rules.frames import CallFrame

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

_DENIED_DETAIL = "the edge was not granted; declare the key in requires or uses and ask the operator"


class Owned:
    """A Pack's callable reached by number."""

    __slots__ = ("key", "number", "session")

    def __init__(self, session: Session, number: int, key: str) -> None:
        self.session = session
        self.number = number
        self.key = key


class HostFunction:
    """A callable of the host's own reached by number."""

    __slots__ = ("fn", "key")

    def __init__(self, fn: Callable[..., Any], key: str) -> None:
        self.fn = fn
        self.key = key


REMOTE = frozenset({RemoteCallable, Owned})
"""Targets with a ``session`` that serves them; every other one the host serves itself."""


def target_of(caller: Session, frame: CallFrame) -> tuple[Entry | None, Any]:
    """What the frame's key or number stands for: an entry with its value, or None with what was handed out.

    Raises ``Refused``: ``denied``, ``missing``, ``incompatible``, ``dead_reference``.
    """
    key = frame.key
    if not isinstance(key, str):
        return None, _held(caller, frame, key)
    entry = caller.world.resolve(key)
    value = entry.value if entry is not None else None
    if entry is None or entry.pack != caller.pack_id:
        rights = caller.rights()
        if entry is not None and not caller.terms.admits(key, entry.version):
            raise _unsuited(caller, entry) if rights.may_see(key) else no_edge(caller, key)
        # only what can be called spends a one-use grant
        if not (rights.may_call(key) if callable(value) else rights.may_see(key)):
            raise no_edge(caller, key)
    if entry is None:
        raise refused("missing", f"no interface {quote(key)}", "nobody provides it now", retryable=True)
    if not callable(value):
        raise refused("missing", f"{quote(key)} is data", "read it with get()")
    return entry, value


def no_edge(caller: Session, key: str) -> Refused:
    """The refusal of a key that was not granted, which is recorded."""
    caller.denied("interface.call", key)
    return refused("denied", f"{caller.pack_id} may not call {quote(key)}", _DENIED_DETAIL)


def _held(caller: Session, frame: CallFrame, number: int) -> Any:
    """What a number that the host handed out stands for."""
    handle = caller.references.held.get(number)
    if handle is None:
        raise refused("dead_reference", "a reference that is no longer held", "get the callable again")
    if handle.feeds is not None:
        # a stream is read on behalf of the call whose argument it is, whatever the frame asserts, and for as long as
        # that call may take
        frame.parent, frame.deadline_ms = handle.feeds.number, int(handle.feeds.budget_s * 1000)
        if not handle.usable():
            raise refused("dead_reference", "a stream is read once, while its call runs", "pass it anew")
    elif not handle.claim():
        if handle.owner is not None and handle.owner.dead:
            raise refused("dead_reference", "its Pack has stopped", "get the callable again", retryable=True)
        caller.denied("interface.call", handle.key)
        raise refused("denied", f"the edge to {quote(handle.key)} was withdrawn", _DENIED_DETAIL)
    if handle.fn is not None:
        return HostFunction(handle.fn, handle.key)
    assert handle.owner is not None
    return Owned(handle.owner, handle.number, handle.key)


def _unsuited(caller: Session, entry: Entry) -> Refused:
    return refused(
        "incompatible",
        f"{caller.pack_id} can't use what provides {quote(entry.key)} now",
        caller.terms.why_not(entry.key, entry.version, entry.pack),
    )
