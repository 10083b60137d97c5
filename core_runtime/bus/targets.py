"""What a Pack's CALL names, if that Pack may reach it.

Invariants:
  * The edge is checked before anything is said about whether the key exists.
  * Asking for something that can't be called spends nothing. A call of what sleeps waits for it, and is judged again,
    and spends, when it goes out.
  * Who calls what is registered by the number in its mirror meets what a call by key meets: its schemas, the range of
    versions, and whether it is registered still.

Not here: sending the call there (``router``), what the rights are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend_core.errors import quote
from core_runtime.bus.references import Handle, RemoteCallable
from core_runtime.bus.refusals import Refused, refused
from core_runtime.bus.sleeping import Sleeper
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
    return named(caller, key) if isinstance(key, str) else _held(caller, frame, key)


def named(caller: Session, key: str) -> tuple[Entry, Any]:
    """What answers a key, for a call that goes out now. Raises ``Refused`` as ``target_of``."""
    entry = caller.world.resolve(key)
    value = entry.value if entry is not None else None
    if entry is None or entry.pack != caller.pack_id:
        rights = caller.rights()
        if entry is not None and not caller.terms.admits(key, entry.version):
            raise _unsuited(caller, entry) if rights.may_see(key) else no_edge(caller, key)
        # only what can be called, and now, spends a one-use grant
        spends = callable(value) and type(value) is not Sleeper
        if not (rights.may_call(key) if spends else rights.may_see(key)):
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


def _held(caller: Session, frame: CallFrame, number: int) -> tuple[Entry | None, Any]:
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
    else:
        _claim(caller, handle)
    entry = handle.entry
    if entry is not None and callable(entry.value):  # the schemas of data are not those of callables in it
        return entry, entry.value
    return None, _bare(handle)


def _claim(caller: Session, handle: Handle) -> None:
    """For a call that goes out now, what ``named`` looks at. Raises ``Refused``."""
    if handle.owner is not None and handle.owner.dead:
        raise refused("dead_reference", "its Pack has stopped", "get the callable again", retryable=True)
    if not handle.stands():
        raise refused("dead_reference", "it is registered no more", "get the callable again", retryable=True)
    entry, may = handle.entry, handle.usable()
    if may and entry is not None and entry.pack != caller.pack_id and not caller.terms.admits(entry.key, entry.version):
        raise _unsuited(caller, entry)
    if not (may and (type(handle.fn) is Sleeper or handle.claim())):
        caller.denied("interface.call", handle.key)
        raise refused("denied", f"the edge to {quote(handle.key)} was withdrawn", _DENIED_DETAIL)


def _bare(handle: Handle) -> Any:
    """What is called by its number alone."""
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
