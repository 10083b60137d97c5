"""What the steps of one run call: as whom, with which key, and how a handler's items are read.

Invariants:
  * A step acts as those who supplied it: each of them must hold the right, and the call is made as one of them.
  * A construct runs a block of another Pack's flow only where its owner may change that flow.
  * No supplier's idempotency key can be another's.
  * What an alias means is asked once for each call, before any right is looked at: rights are those to the key.

Not here: when something is called, and what becomes of the answer (``flow_run``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

from backend_core.errors import DeniedError, NotFoundError, PackTimeout, RequestError, RumiError
from core_runtime.bus.calls import Call, CallContext
from core_runtime.bus.streams import HostStream
from core_runtime.flow_hooks import FlowHooks
from core_runtime.handlers import interfaces
from core_runtime.handlers.aliases import doubt, meant
from core_runtime.handlers.host import Host
from core_runtime.rules.flow import asking, model
from core_runtime.rules.permissions import Deny
from core_runtime.tracing import maybe

KERNEL_ACTOR: Final = "kernel"

KernelHandler = Callable[[Host, Mapping[str, Any]], Awaitable[Any] | Any]
Body = Callable[..., Awaitable[Any]]
"""What a construct calls to have its step's block run once."""


class Handlers(Protocol):
    """What a run asks its kernel."""

    host: Host
    hooks: FlowHooks

    def kernel_handler(self, name: str) -> KernelHandler | None:
        """The host's own handler ``kernel:<name>``."""

    def has_handler(self, name: str) -> bool:
        """Whether a step could call ``name`` now."""


class Cut(Struct, eq=False):
    """A stream that the run was reading when it was killed: opened anew, and read past what was read before."""

    opened: asking.Asking
    skip: int = 0
    items: AsyncIterator[Any] | None = None


class StepCalls(Struct, frozen=True):
    """Those of one run. ``parent``: the Pack's call that began it; what its steps call belongs to that."""

    kernel: Handlers
    flow_id: str
    run_id: str
    parent: Call | None

    async def call(self, effect: asking.Invoke, body: Body | None) -> Any:
        """A handler's answer; a construct is given ``body``."""
        with self._span(effect):
            return await self._called(effect, body)

    async def open(self, effect: asking.Open) -> Any:
        """A handler's items, or its plain answer."""
        with self._span(effect):
            return await self._opened(effect)

    async def next(self, effect: asking.Next) -> Any:
        """The next item, or ``END``."""
        try:
            items = await self._resumed(effect.handle) if isinstance(effect.handle, Cut) else effect.handle
            return await within(anext(items), effect.idle_s or 0.0)
        except StopAsyncIteration:
            return asking.END

    async def _called(self, effect: asking.Invoke, body: Body | None) -> Any:
        key = meant(self.kernel.host, effect.handler)
        caller = await self._acting(effect.acts_as, key)
        args = effect.args
        if body is not None:
            await self._check_supplier(effect)
            args = {**args, "run": body}
        elif not self.kernel.has_handler(key):
            raise _missing(self.kernel.host, effect.handler, key)
        result = await self._send(effect, key, args, caller)
        if isinstance(result, AsyncIterator):
            await closed(result)
            raise RequestError(
                f"{effect.handler} streams",
                code="value",
                detail="Its items have to be taken one by one.",
                hint="Give the step the word stream.",
            )
        return result

    async def _opened(self, effect: asking.Open) -> Any:
        if effect.handler.startswith(model.KERNEL_PREFIX):
            raise RequestError("The host's handlers do not stream", code="value", detail=effect.handler)
        key = meant(self.kernel.host, effect.handler)
        if not self.kernel.has_handler(key):
            raise _missing(self.kernel.host, effect.handler, key)
        caller = await self._acting(effect.acts_as, key)
        result = await self._send(effect, key, effect.args, caller)
        if isinstance(result, HostStream):
            result.keep_ahead(effect.buffer)
        return asking.Opened(result) if isinstance(result, AsyncIterator) else result

    async def _send(self, effect: asking.Invoke | asking.Open, key: str, args: Any, caller: str) -> Any:
        return await interfaces.call(
            self.kernel.host, key, args, effect.timeout_s or None, caller=caller,
            idempotency_key=self._once(effect), context=self._context(caller),
            ahead=effect.buffer if isinstance(effect, asking.Open) else None,
        )  # fmt: skip

    def _span(self, effect: asking.Invoke | asking.Open) -> contextlib.AbstractContextManager[Any]:
        return maybe(self.kernel.host.tracer, f"step {effect.path}", rumi_flow=self.flow_id, rumi_step=effect.path)

    async def _acting(self, actors: tuple[str, ...], key: str) -> str:
        """Whom a call is made as. Of several each must hold the right; the bus judges the one that is named to it."""
        if not actors:
            return KERNEL_ACTOR
        for pack_id in actors[1:]:
            answer = await asyncio.to_thread(self.kernel.host.permissions.may_call, pack_id, key)
            if isinstance(answer, Deny):
                raise answer.error()
        return actors[0]

    async def _check_supplier(self, effect: asking.Invoke) -> None:
        """Whose construct it is. Where the step names nobody, its owner must be allowed to change that flow."""
        host = self.kernel.host
        entry = host.registry.resolve(effect.handler)
        if entry is None or (effect.pack and entry.pack != effect.pack):
            raise NotFoundError(
                f"{effect.pack or 'Nobody'} supplies no {effect.handler}",
                code="missing",
                detail=f"The construct of that name belongs to {entry.pack or 'the host'}." if entry else "",
            )
        if effect.pack or not entry.pack or entry.pack in effect.acts_as:
            return
        flow_id = effect.args["step"]["flow"]
        if not await asyncio.to_thread(host.permissions.has, entry.pack, "flow.modify", flow=flow_id):
            raise DeniedError(
                f"{entry.pack} may not decide how often steps of {flow_id} run",
                detail=f"It supplies {effect.handler}, and was not granted flow.modify for that flow.",
                hint=f"Name the Pack in the flow ({entry.pack}:…), or grant it the right.",
            )

    def _context(self, caller: str) -> CallContext | None:
        parent = self.parent
        if parent is None:
            return None
        return CallContext(caller, (*parent.chain, parent.caller_name), self.flow_id, parent=parent)

    def _once(self, effect: asking.Invoke | asking.Open) -> str | None:
        """Of each supplier its own, so that nobody's step can pass for another's that was done already."""
        supplier = "+".join(effect.acts_as)
        return "/".join(filter(None, (self.run_id, supplier, effect.once))) if effect.once else None

    async def _resumed(self, cut: Cut) -> AsyncIterator[Any]:
        if cut.items is None:
            assert isinstance(cut.opened, asking.Open)
            opened = await self._opened(cut.opened)
            if not isinstance(opened, asking.Opened):
                raise StopAsyncIteration
            items: AsyncIterator[Any] = opened.handle
            for _ in range(cut.skip):
                await anext(items)
            cut.items = items
        return cut.items


def _missing(host: Host, name: str, key: str) -> NotFoundError:
    said = f"{name!r}" if name == key else f"{name!r}, which means {key!r},"
    return NotFoundError(f"Nobody provides {said} now", code="missing", hint=doubt(host))


async def within(work: Awaitable[Any], timeout_s: float) -> Any:
    """The result, or ``PackTimeout`` after ``timeout_s`` (0: no limit of its own)."""
    if not timeout_s:
        return await work
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        detail = "The step's time was over."
        raise PackTimeout(f"No result within {timeout_s:g} s", detail=detail, retryable=True) from None


async def closed(stream: Any) -> None:
    """End a stream; what its maker says to that does not matter any more."""
    stream = stream.items if isinstance(stream, Cut) else stream
    if hasattr(stream, "aclose"):
        with contextlib.suppress(RumiError):  # see above
            await stream.aclose()
