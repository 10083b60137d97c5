"""What a run waits for and tells beside its calls: events, handlers that appear, an instant.

Invariant: each supplier of a step must be allowed to hear, or to publish, what the step does.

Not here: calls (``flow_calls``), time that passes (``flow_run``).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from backend_core.errors import RequestError, RumiError, quote
from core_runtime.flow_calls import Handlers
from core_runtime.flow_errors import as_exception
from core_runtime.handlers import aliases
from core_runtime.handlers.host import Host
from core_runtime.rules.flow import asking
from core_runtime.rules.permissions import Deny


async def heard(host: Host, effect: asking.Listen) -> Any:
    """The payload of the first event that is wanted."""
    await _allowed(host, effect.acts_as, "event.subscribe", effect.topic)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Any] = loop.create_future()

    def settle(payload: Any) -> None:
        if not found.done():
            found.set_result(payload)

    def fail(error: RumiError) -> None:
        if not found.done():
            found.set_exception(error)

    def hear(payload: Any) -> None:
        try:
            if effect.accepts(payload):
                loop.call_soon_threadsafe(settle, payload)
        except asking.StepFailed as failure:
            loop.call_soon_threadsafe(fail, as_exception(failure.error))

    number = host.events.subscribe(effect.topic, hear)
    try:
        return await found
    finally:
        host.events.unsubscribe(effect.topic, number)


async def published(host: Host, effect: asking.Publish) -> None:
    """Publish an event as whoever supplied the step."""
    await _allowed(host, effect.acts_as, "event.publish", effect.topic)
    source = f"rumi:pack/{effect.acts_as[0]}" if effect.acts_as else "rumi:host"
    host.events.publish(effect.topic, effect.payload, source=source)


async def appearance(kernel: Handlers, handler: str) -> None:
    """Return once a call of ``handler`` could succeed. A kernel handler that is absent never appears."""
    host, loop, appeared = kernel.host, asyncio.get_running_loop(), asyncio.Event()

    def noticed(*_told: Any) -> None:
        loop.call_soon_threadsafe(appeared.set)

    number = host.events.subscribe(aliases.CHANGED, noticed)
    try:
        while True:
            appeared.clear()
            observer = host.registry.observe(aliases.meant(host, handler), noticed)  # before looking: none is missed
            try:
                if kernel.has_handler(handler):
                    return
                await appeared.wait()
            finally:
                host.registry.unobserve(observer)
    finally:
        host.events.unsubscribe(aliases.CHANGED, number)


def instant(value: Any) -> float:
    """Seconds since 1970 of a number or of ISO 8601 text (UTC where it names no zone)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        detail = f"expected seconds since 1970 or ISO 8601, got {quote(value, 60)}"
        raise RequestError("That is no instant", code="value", detail=detail) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


async def _allowed(host: Host, actors: tuple[str, ...], right: str, topic: str) -> None:
    for pack_id in actors:
        answer = await asyncio.to_thread(host.permissions.check, pack_id, right, topic=topic)
        if isinstance(answer, Deny):
            raise answer.error()
