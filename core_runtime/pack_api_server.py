"""The host's listening sockets: API and web port on every loopback family, and the command-line tool's socket.

Order of a start: ``bind`` (before anything else of the host: a taken port ends the start, and a bound one can't be
taken by another user) → the security phase → ``serve`` → Packs start behind it. What connects in between waits in the
kernel.

Invariants:
  * Every connection is proven at accept, every request passes the gate first.
  * Stopping ends streams, lets answers finish for ``STOP_GRACE_S``, then cancels them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from functools import partial

from starlette.responses import Response
from starlette.types import ASGIApp, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from backend_core.errors import RumiError
from core_runtime.api.context import Api
from core_runtime.api.envelope import refusal
from core_runtime.api.gate import Gate
from core_runtime.api.protocol import Door as Entrance
from core_runtime.api.protocol import HostProtocol, protocol_factory
from core_runtime.drivers import loopback, peer
from core_runtime.drivers.token import TokenFile
from core_runtime.rules.identity import Authority, Door, Peer, Refuse
from core_runtime.rules.settings import Settings

KEEP_ALIVE_S = 5
STOP_GRACE_S = 5.0
SWEEP_S = 1.0
_TOLD = frozenset({"not_identified", "token_wrong", "host_not_served", "cross_site"})

RenderRefusal = Callable[[Scope, Refuse], Response]


class PackApiServer:
    """All of them together. ``bind``, then ``serve`` once, then ``close`` (also after a failure in between)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.web_port = settings.web_port
        self._sockets: list[tuple[Door, socket.socket]] = []
        self._give_back = contextlib.ExitStack()
        self._servers: list[asyncio.AbstractServer] = []
        self._state = ServerState()
        self._sweeper: asyncio.Task[None] | None = None
        self._token = TokenFile(settings.token_file)

    def bind(self) -> None:
        """Take every address. Raises ``HostError``; nothing stays taken then."""
        with contextlib.ExitStack() as undo:
            if loopback.supports_unix():
                sock, give_back = loopback.bind_unix(self._settings.socket_path)
                undo.callback(give_back)
                self._sockets.append((Door.SOCKET, sock))
            for sock in loopback.bind_port(self._settings.api_port):
                self._sockets.append((Door.API, undo.enter_context(sock)))
            self.web_port, sockets = loopback.bind_first_free(self._settings.web_port, avoid=self._settings.api_port)
            for sock in sockets:
                self._sockets.append((Door.WEB, undo.enter_context(sock)))
            self._give_back = undo.pop_all()

    async def serve(self, api: Api, management: ASGIApp, web: ASGIApp, web_refused: RenderRefusal) -> None:
        """Begin to accept. Returns at once; the security phase is done, so ``user_data`` is there."""
        self._prepare_token(api)
        uid = peer.own_uid()
        gate = Gate(
            {Door.API: management, Door.SOCKET: management, Door.WEB: web},
            partial(self._authority, api, uid),
            lambda scope, refuse: (web_refused if _is_web(scope) else _api_refused)(scope, refuse),
            on_refusal=partial(_note_refusal, api),
            on_session=api.access.use,
        )
        config = Config(
            gate, http=HostProtocol, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
            server_header=False, date_header=False, timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        config.load()
        loop = asyncio.get_running_loop()
        for door, sock in self._sockets:
            make = protocol_factory(config, self._state, Entrance(partial(peer.prove, door), uid))
            create = loop.create_unix_server if door is Door.SOCKET else loop.create_server
            self._servers.append(await create(make, sock=sock, backlog=loopback.BACKLOG))
        self._sweeper = asyncio.create_task(self._sweep(api), name="http sweep")

    async def close(self, api: Api | None = None) -> None:
        """Stop accepting, end streams, let answers finish, give everything back. Safe to call at any point."""
        for server in self._servers:
            server.close()
        if api is not None:
            api.streams.closing.set()
            api.access.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=STOP_GRACE_S)
        for task in set(self._state.tasks):
            task.cancel()
        await asyncio.gather(*set(self._state.tasks), return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()
        while self._state.connections:  # noqa: ASYNC110
            # The loop's next turn tells each connection that it is lost.
            await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self._give_back.close()

    def _authority(self, api: Api, uid: int | None, token_shown: bool) -> Authority:  # noqa: FBT001  called by the gate
        token = self._token.current() if token_shown else b""
        return Authority(uid, self._settings.api_port, self.web_port, token, api.access.living())

    def _prepare_token(self, api: Api) -> None:
        """A token that can't be made or used is an issue, not an end: the owner's own connections need none."""
        problem: RumiError | None = None
        try:
            self._token.ensure()
            self._token.current()
            problem = self._token.problem
        except OSError as exc:
            api.host.diagnostics.issue(
                "token_unusable",
                "error",
                "api",
                "The API token can't be made",
                str(exc),
                "Look at user_data/permissions.",
            )
        if problem is not None:
            api.host.diagnostics.issue(problem.code, "error", "api", problem.title, problem.detail, problem.hint)

    async def _sweep(self, api: Api) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            api.access.sweep()
            now_s = time.monotonic()
            for connection in list(self._state.connections):
                if isinstance(connection, HostProtocol):
                    connection.sweep(now_s)


def _note_refusal(api: Api, peer: Peer, refuse: Refuse) -> None:
    """Somebody else, or a page of another site, asked this host: one issue for each kind, with a count."""
    if refuse.code not in _TOLD:
        return
    who = "an unproven connection" if peer.uid is None else f"user {peer.uid}"
    api.host.diagnostics.issue(
        "request_refused",
        "info",
        f"{peer.door.value}:{refuse.code}:{peer.uid}",
        f"A request was refused: {refuse.title}",
        f"From {who}, at the {peer.door.value} door: {refuse.detail}",
        refuse.hint,
    )


def _is_web(scope: Scope) -> bool:
    return bool(scope["state"]["peer"].door is Door.WEB)


def _api_refused(scope: Scope, refuse: Refuse) -> Response:
    del scope
    return refusal(refuse, {"www-authenticate": "Bearer"} if refuse.status == 401 else None)
