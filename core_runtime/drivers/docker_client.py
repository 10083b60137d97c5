"""One connection to a Docker Engine: where it is, how it is spoken to, and what its errors mean here.

Invariants:
  * Foreign exceptions end at ``translated``. The client library is imported on first use (it costs 160 ms).
  * An address that ``rules.docker_transport`` refuses is never connected to; with DOCKER_TLS_VERIFY set, the engine's
    certificate is checked and ours is shown, or nothing is said.

Not here: containers (``docker_engine``, ``docker_sandbox``).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend_core.errors import HostError, SandboxUnavailable, quote
from core_runtime.rules.docker_transport import refused_address

if TYPE_CHECKING:
    import aiodocker
    from aiodocker.containers import DockerContainer

DEFAULT_SOCKET = "/var/run/docker.sock"
QUERY_S = 30.0
CONNECT_S = 5.0
NOT_CONNECTED = 900
"""The client library's own status for "no connection"; no engine sends it."""
START_HINT = "Start Docker (for example: systemctl start docker), or set DOCKER_HOST, then: rumi doctor"


class EngineClient:
    """The engine at one address. Connects on first use."""

    def __init__(self, url: str = "") -> None:
        self.url = url or engine_url()
        self._client: aiodocker.Docker | None = None

    async def docker(self) -> aiodocker.Docker:
        """The client library's object. ``SandboxUnavailable`` where this address is not spoken to."""
        if self._client is None:
            tls = bool(os.environ.get("DOCKER_TLS_VERIFY")) and not self.url.startswith("unix:")
            refused = refused_address(self.url, tls=tls)
            if refused is not None:
                raise SandboxUnavailable(
                    "This engine's address is not used", detail=refused.reason, hint=refused.hint
                )
            await asyncio.to_thread(importlib.import_module, "aiodocker")  # 160 ms: not on the loop
            self._client = _connect(self.url, await asyncio.to_thread(_tls_context) if tls else None)
        return self._client

    async def info(self) -> Mapping[str, Any]:
        """What the engine says of itself."""
        async with self.translated("ask the engine"):
            found: Mapping[str, Any] = await (await self.docker()).system.info()
            return found

    async def close(self) -> None:
        """Close the connection; containers go on."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @contextlib.asynccontextmanager
    async def translated(self, doing: str) -> AsyncIterator[None]:
        """The border of the driver: the library's exceptions become ``HostError``."""
        import aiohttp  # noqa: PLC0415 - see the module's docstring
        from aiodocker.exceptions import DockerError  # noqa: PLC0415

        try:
            yield
        except DockerError as error:
            if error.status == NOT_CONNECTED:
                raise self._gone(doing, error.message) from error
            raise HostError(
                f"The engine refused to {doing}",
                code="engine_refused",
                detail=f"{error.status}: {quote(error.message, 500)}",
                hint="rumi doctor",
                fields={"status": error.status},
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(doing, str(error) or type(error).__name__) from error

    def _gone(self, doing: str, why: str) -> HostError:
        return HostError(
            f"The engine did not answer when asked to {doing}",
            code="engine_unavailable",
            detail=f"{self.url}: {quote(why, 300)}",
            hint=START_HINT,
        )


def engine_url() -> str:
    """``DOCKER_HOST``, else the usual sockets."""
    named = os.environ.get("DOCKER_HOST")
    if named:
        return named
    own = f"{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/docker.sock"
    return f"unix://{own if Path(own).is_socket() and not Path(DEFAULT_SOCKET).is_socket() else DEFAULT_SOCKET}"


async def delete_container(container: DockerContainer) -> None:
    """Remove a container, running or not; one that is gone already is no error."""
    from aiodocker.exceptions import DockerError  # noqa: PLC0415 - see the module's docstring

    try:
        await container.delete(force=True, v=True, timeout=QUERY_S)
    except DockerError as error:
        if error.status not in {404, 409}:  # gone, or its removal is already under way
            raise


def _connect(url: str, tls: ssl.SSLContext | None) -> aiodocker.Docker:
    import aiodocker  # noqa: PLC0415 - see the module's docstring
    import aiohttp  # noqa: PLC0415

    limits = aiohttp.ClientTimeout(total=QUERY_S, connect=CONNECT_S)
    if tls is None:
        return aiodocker.Docker(url=url, timeout=limits)
    return aiodocker.Docker(url=f"https://{url.partition('://')[2]}", timeout=limits, ssl_context=tls)


def _tls_context() -> ssl.SSLContext:
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or "~/.docker").expanduser()
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except (OSError, ssl.SSLError) as error:
        raise SandboxUnavailable(
            "The engine's certificates can't be used",
            detail=f"expected ca.pem, cert.pem and key.pem in {quote(str(folder))}: {error}",
            hint="Set DOCKER_CERT_PATH to the folder that holds them.",
        ) from error
    return context
