"""Channels: bytes both ways between a sandbox and what the host opened for it, and what the host's refusals mean here.

Loaded by the agent only for Packs that declare a way out, as the rest of ``container_network``.

Invariant: what a channel holds is bounded by its credit; nothing is sent without the host's.
"""

from __future__ import annotations

from _collections import deque  # type: ignore[import-not-found]  # as in the agent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

CANCEL, STREAM_ITEM, STREAM_END, STREAM_CREDIT, REQUEST = 4, 5, 6, 7, 64
ITEM_BYTES = 32 * 1024
UPSTREAM_FAULTS = frozenset({"name_unknown", "unreachable", "tls_failed", "reset", "answer_malformed", "cancelled"})
LATE = frozenset({"timeout", "name_timeout"})


class Channel:
    """Bytes both ways, to what the host opened. Filled by the agent's reader, used by one thread that it wakes."""

    __slots__ = (
        "agent", "ended", "error", "finished", "granted", "id", "items", "notify", "opened", "sent", "taken", "up",
        "window",
    )  # fmt: skip

    def __init__(self, agent: Any, number: int, notify: Callable[[], None]) -> None:
        self.agent = agent
        self.id = number
        self.notify = notify
        self.items: deque[Any] = deque()
        self.ended = False
        self.error: Any = None
        self.opened = False
        self.up = 0
        self.window = self.granted = agent.stream_credit
        self.sent = 0
        self.taken = 0
        self.finished = False

    # -- for the agent's reader

    def answered(self, pending: Any) -> None:
        """The host opened it, or said why not."""
        if pending.error is not None:
            self.error = pending.error
            self.ended = True
        else:
            reply = pending.reply
            if not isinstance(reply, dict):
                reply = self.agent.decode(reply)
            self.up = reply["up"]
            self.agent.channels[self.up] = self
            self.opened = True
        self.notify()

    def arrived(self) -> None:
        """An item, or the end."""
        self.notify()

    def credited(self, count: int) -> None:
        """The host takes more."""
        self.granted += count
        self.notify()

    # -- for the thread that uses it

    @property
    def credit(self) -> int:
        return self.granted - self.sent if self.opened and not self.ended and not self.finished else 0

    def pop(self) -> Any:
        """The next item; what is taken is granted again in halves of the window."""
        item = self.items.popleft()
        self.taken += 1
        if self.taken * 2 >= self.window and not self.ended:
            count, self.taken = self.taken, 0
            self.agent.send(self.agent.plain_frame([STREAM_CREDIT, self.id, count]))
        return item if isinstance(item, (bytes, dict)) else self.agent.decode(item)

    def write(self, data: bytes) -> None:
        """One item, of at most ``ITEM_BYTES``; there must be credit."""
        self.sent += 1
        self.agent.send(self.agent.plain_frame([STREAM_ITEM, self.up, (), data]))

    def finish(self) -> None:
        """Nothing more goes up."""
        if self.opened and not self.finished:
            self.finished = True
            self.agent.channels.pop(self.up, None)
            self.agent.send(self.agent.plain_frame([STREAM_END, self.up, None]))

    def give_up(self) -> None:
        """Both directions end."""
        if not self.ended:
            self.ended = True
            if self.agent.pending.pop(self.id, None) is not None:
                self.agent.send(self.agent.plain_frame([CANCEL, self.id]))
        self.finish()


def open_channel(agent: Any, operation: str, args: Any, notify: Callable[[], None], run: Any = None) -> Channel:
    """Ask the host. The answer comes by ``notify``."""
    pending = agent.open_pending(run)
    channel = pending.channel = Channel(agent, pending.id, notify)
    try:
        agent.send(agent.frame([REQUEST, pending.id, operation, 0], args))
    except BaseException:
        agent.pending.pop(pending.id, None)
        raise
    return channel


def status_of(error: Any) -> int:
    """The status of a proxy's answer for one of the host's refusals."""
    kind = getattr(error, "type", "")
    if kind in LATE:
        return 504
    if kind in UPSTREAM_FAULTS or kind.startswith("error/"):
        return 502
    if ".budget." in kind or kind == "limit":
        return 429
    return 400 if kind.endswith("_invalid") or kind == "arguments" else 403


def reason_of(error: Any) -> str:
    """The host's sentence."""
    title, detail = getattr(error, "title", "") or str(error), getattr(error, "detail", "")
    return f"{title.rstrip('.')}. {detail}" if detail else str(title)
