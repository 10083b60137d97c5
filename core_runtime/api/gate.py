"""First in line on every port: who is asking and how often, decided before any parser, route or handler runs.

A plain ASGI application. It never touches ``receive``: a refused request has done no work for its sender.

Not here: the rule itself (``rules.identity``), the proof (``drivers.peer`` at accept).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core_runtime.rules.identity import Allow, Authority, Door, Peer, Refuse, RequestFacts, decide
from core_runtime.rules.rate import Bucket, Rate, take, wait_s
from core_runtime.rules.sessions import Session

OWNER_RATE = Rate(per_second=5000.0, burst=10000.0)
STRANGER_RATE = Rate(per_second=20.0, burst=40.0)
_BUCKETS_KEPT = 256

_HEADERS = {
    b"host": "host",
    b"origin": "origin",
    b"sec-fetch-site": "fetch_site",
    b"sec-fetch-mode": "fetch_mode",
    b"sec-fetch-dest": "fetch_dest",
    b"content-type": "content_type",
    b"content-length": "content_length",
    b"transfer-encoding": "transfer_encoding",
    b"authorization": "authorization",
    b"cookie": "cookie",
    b"x-rumi-session": "session",
}


class Gate:
    """``authority`` is asked per request, so that a replaced token counts at once, and told whether one was shown;
    ``refused`` renders a refusal.
    """

    def __init__(
        self,
        apps: dict[Door, ASGIApp],
        authority: Callable[[bool], Authority],
        refused: Callable[[Scope, Refuse], Response],
        *,
        on_refusal: Callable[[Peer, Refuse], None] = lambda _peer, _refuse: None,
        on_session: Callable[[Session], None] = lambda _session: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._apps = apps
        self._authority = authority
        self._refused = refused
        self._on_refusal = on_refusal
        self._on_session = on_session
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        facts = facts_of(scope)
        decision = decide(facts, self._authority(bool(facts.authorization)))
        decision = self._rated(facts.peer, decision)
        if isinstance(decision, Refuse):
            self._on_refusal(facts.peer, decision)
            await self._refused(scope, decision)(scope, _nothing, send)
            return
        if decision.session is not None:
            self._on_session(decision.session)
        scope["state"] |= {"actor": decision.actor, "session": decision.session, "proven": decision.proven}
        await self._apps[facts.peer.door](scope, receive, send)

    def _rated(self, peer: Peer, decision: Allow | Refuse) -> Allow | Refuse:
        """The owner's requests and everybody else's are counted apart: a flood of strangers costs the owner nothing."""
        allowed = isinstance(decision, Allow) and (decision.proven or decision.actor.startswith("operator"))
        rate = OWNER_RATE if allowed else STRANGER_RATE
        name = f"{'owner' if allowed else 'stranger'}:{peer.uid}"
        now_s = self._clock()
        admitted, bucket = take(self._buckets.pop(name, None), rate, now_s)
        self._buckets[name] = bucket
        while len(self._buckets) > _BUCKETS_KEPT:
            self._buckets.popitem(last=False)
        if admitted:
            return decision
        return Refuse(
            429, "too_many_requests", "Too many requests",
            f"the next one is admitted in {wait_s(bucket, rate):.2f} s", "Wait, then ask again.",
        )  # fmt: skip


def facts_of(scope: Scope) -> RequestFacts:
    """The request's head as values. The peer was put there when the connection was accepted."""
    found: dict[str, tuple[bytes, ...]] = {}
    for name, value in scope["headers"]:
        fact = _HEADERS.get(name)
        if fact is not None:
            found[fact] = (*found.get(fact, ()), value)
    return RequestFacts(peer=scope["state"]["peer"], method=scope["method"], raw_path=scope["raw_path"], **found)


def _nothing() -> Awaitable[dict[str, str]]:
    raise AssertionError("a refusal reads nothing of the request")
