"""The ways out, as seen from inside a sandbox: ``context["http"]``, and the start of the proxy for ordinary clients.

Loaded by the agent only for Packs that declare a way out. The same rules as for the agent hold: Python 3.9, no import
that is not needed, and nothing in here protects the host.

Not here: the proxy itself (``container_proxy``), channels (``container_channel``).
"""

from __future__ import annotations

import posix
import sys
from _thread import allocate_lock, start_new_thread
from time import monotonic

from container_channel import ITEM_BYTES, open_channel  # type: ignore[import-not-found]  # beside, not on the path
from container_proxy import Proxy  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable


class Http:
    """Requests that the host makes. Blocking; in a coroutine use ``asyncio.to_thread``, or a client of your own."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def fetch(
        self, url: str, method: str = "GET", headers: Any = None, body: Any = None, timeout_s: float = 60.0
    ) -> Response:
        """``body``: bytes, text, or an iterable of bytes. ``timeout_s``: until the head of the answer is there."""
        pairs = list(headers.items()) if hasattr(headers, "items") else list(headers or ())
        data = body.encode() if isinstance(body, str) else body
        if data is None or isinstance(data, (bytes, bytearray, memoryview)):
            parts: Any = [bytes(data)] if data else []
            length: int | None = len(parts[0]) if parts else 0
        else:
            parts, length = data, None
        args = {"method": method, "url": url, "headers": [[str(n), str(v)] for n, v in pairs], "length": length}
        response = Response(self._agent, args)
        try:
            response._begin(parts, monotonic() + timeout_s)  # noqa: SLF001
        except BaseException:
            response.close()
            raise
        return response


class Response:
    """An answer: ``status``, ``reason``, ``headers`` (pairs). Iterate, ``read()``, ``text()`` or ``json()`` it once."""

    status = 0
    reason = ""
    headers: list[list[str]] = []  # noqa: RUF012 - replaced by the answer's own

    def __init__(self, agent: Any, args: Any) -> None:
        self._agent = agent
        self._gate: Any = None
        self._channel = open_channel(agent, "http.fetch", args, self._wake, agent.parent_of(None)[1])

    def header(self, name: str, default: Any = None) -> Any:
        """The first header of that name, in any case."""
        wanted = name.lower()
        return next((value for found, value in self.headers if found.lower() == wanted), default)

    def __iter__(self) -> Iterator[bytes]:
        channel = self._channel
        while self._wait(lambda: channel.items or channel.ended, None):
            if not channel.items:
                break
            yield channel.pop()
        self.close()
        if channel.error is not None:
            raise channel.error

    def read(self) -> bytes:
        """All of the body that was not read yet."""
        return b"".join(self)

    def text(self, encoding: str = "utf-8") -> str:
        return self.read().decode(encoding)

    def json(self) -> Any:
        import json

        return json.loads(self.read())

    def close(self) -> None:
        """Stop early; the host is told."""
        self._channel.give_up()

    def __enter__(self) -> Response:  # noqa: PYI034 - Self is newer than 3.9
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, parts: Any, until: float) -> None:
        channel = self._channel
        self._wait(lambda: channel.opened or channel.ended, until)

        def early() -> bool:
            """Whether the answer, or the end, came before the body was sent."""
            return bool(channel.items) or channel.ended

        for part in parts:
            for at in range(0, len(part), ITEM_BYTES):
                self._wait(lambda: channel.credit > 0 or early(), until)
                if early():
                    break
                channel.write(bytes(part[at : at + ITEM_BYTES]))
        if not early():
            channel.finish()
        self._wait(early, until)
        if channel.items:
            head = channel.pop()
            self.status, self.reason, self.headers = int(head["status"]), head["reason"], head["headers"]
        elif channel.error is not None:
            raise channel.error

    def _wake(self) -> None:
        gate = self._gate
        if gate is not None:
            gate.wake()

    def _wait(self, holds: Callable[[], Any], until: float | None) -> Any:
        while not holds():
            gate = self._gate = self._agent.make_gate()
            if not holds() and not self._agent.wait(gate, until):
                raise TimeoutError("no answer in time")
            self._gate = None
        return True


def start(agent: Any, settings: Any) -> None:
    """Open the proxy and name it in the environment, before a byte of the Pack is read."""
    proxy = Proxy(agent)
    started = allocate_lock()
    started.acquire()
    start_new_thread(proxy.main, (started,))
    started.acquire()
    address = f"http://127.0.0.1:{proxy.port}"
    values = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
    values["NO_PROXY"] = str(settings.get("no_proxy", ""))
    values.update({name.lower(): value for name, value in list(values.items())})
    system = sys.modules.get("os")
    for name, value in values.items():
        if system is not None:
            system.environ[name] = value
        else:
            posix.putenv(name, value)
            posix.environ[name.encode()] = value.encode()
