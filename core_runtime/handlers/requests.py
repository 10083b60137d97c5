"""What a Pack may ask the host for over its own connection (kind 64 of the bus protocol), one operation per entry.

Invariants:
  * The asking Pack is the one whose connection carried the request; no argument can name another.
  * Arguments are checked here for shape, by the managers for right; both refuse by name.
  * A version on trial does nothing here that would outlast a failed trial (``ON_TRIAL``).
  * Whatever blocks runs in a pool that only Packs' requests use: their flood can't keep the operator waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from backend_core.errors import DeniedError, RequestError, quote
from core_runtime.generations import ACTING, Stage, acting
from core_runtime.handlers.host import Host
from core_runtime.userdata_manager import UserdataManager

MAX_TEXT_CHARS = 2_000
MAX_PARAMS = 8
MAX_ITEMS = 32
MAX_ITEM_CHARS = 256
ONCE = "secret.get"
Operation = Callable[[Host, str, Mapping[str, Any]], Any]


ON_TRIAL = frozenset({
    "userdata.read", "userdata.write", "userdata.list", "userdata.exists", "userdata.stat", "userdata.delete",
    "permission.has", "permission.request", "journal.record", "diagnostics.record", "secret.get",
})  # fmt: skip
"""What a version may do before it has taken over."""


async def serve_session(host: Host, session: Any, operation: str, args: Any) -> Any:
    """``serve`` for one generation of a Pack, by what is its right."""
    with by_right_of(session, operation):
        return await serve(host, session.pack_id, operation, args, generation=session.generation)


@contextlib.contextmanager
def by_right_of(session: Any, operation: str) -> Iterator[None]:
    """What happens in the block happens by that generation's right. ``DeniedError`` for what a trial may not do."""
    standing = getattr(session.rights(), "standing", None)
    if standing is not None and standing.stage is Stage.TRIAL and operation not in ON_TRIAL:
        standing.refused = standing.refused or operation
        raise DeniedError(
            f"{quote(operation, 60)} is not for a version on trial",
            code="on_trial",
            detail="The version before still serves; what this operation does could not be taken back.",
            hint="The host starts this version again in the old one's place; it may do it then.",
        )
    with acting(standing):
        yield


async def serve(host: Host, pack_id: str, operation: str, args: Any, *, generation: int = 0) -> Any:
    """Perform one operation for ``pack_id``; raises ``RumiError`` with the reason.

    ``generation`` is that of the connection: what is handed over once is handed over once for each.
    """
    perform = _OPERATIONS.get(operation)
    if perform is None:
        raise RequestError(
            f"There is no operation {quote(operation, 60)}",
            code="unknown_operation",
            detail=f"Known: {', '.join(sorted(_OPERATIONS))}.",
            hint="See the bus protocol's list of requests.",
        )
    if not isinstance(args, Mapping):
        raise _wrong(operation, "its arguments", "a map", args)
    if operation in _SHOWN:
        args = host.redactions.hide_in(pack_id, args)
    if operation == ONCE:
        perform = partial(_secret, generation)
    work = partial(contextvars.copy_context().run, perform, host, pack_id, args)
    return await asyncio.get_running_loop().run_in_executor(host.pack_work, work)


def _files(host: Host) -> UserdataManager:
    """The files of whoever acts: those that are there, or those that a version on trial sees."""
    standing = ACTING.get()
    return host.userdata if standing is None or standing.files is None else standing.files


# -- operations -------------------------------------------------------------------------------------------------------


def _read(host: Host, pack_id: str, args: Mapping[str, Any]) -> bytes:
    return _files(host).read(pack_id, _text(args, "path"))


def _write(host: Host, pack_id: str, args: Mapping[str, Any]) -> None:
    data = args.get("data")
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, bytes):
        raise _wrong("userdata.write", "data", "bytes or text", data)
    _files(host).write(pack_id, _text(args, "path"), data)


def _list(host: Host, pack_id: str, args: Mapping[str, Any]) -> Any:
    return _files(host).list(pack_id, _text(args, "prefix", ""))


def _exists(host: Host, pack_id: str, args: Mapping[str, Any]) -> bool:
    return bool(_files(host).exists(pack_id, _text(args, "path")))


def _stat(host: Host, pack_id: str, args: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_files(host).stat(pack_id, _text(args, "path")))


def _delete(host: Host, pack_id: str, args: Mapping[str, Any]) -> bool:
    return bool(_files(host).delete(pack_id, _text(args, "path")))


def _journal(host: Host, pack_id: str, args: Mapping[str, Any]) -> None:
    host.journal.record(pack_id, created=_texts(args, "created"), modified=_texts(args, "modified"))


def _permission_has(host: Host, pack_id: str, args: Mapping[str, Any]) -> bool:
    kind, params = _permission(args)
    return host.permissions.has(pack_id, kind, **params)


def _permission_request(host: Host, pack_id: str, args: Mapping[str, Any]) -> str:
    """``granted``, or ``asked``: it was put before the operator. A Pack never waits for a person here."""
    kind, params = _permission(args)
    reason = str(params.pop("reason", ""))
    answer = host.permissions.ask(pack_id, kind, params, reason)
    if answer != "granted":
        host.diagnostics.issue(
            "permission_requested",
            "info",
            pack_id,
            f"The Pack {pack_id} asks for a permission",
            f"It asks for {quote(kind, 80)}. Its reason: {quote(reason, 300) if reason else 'none given'}",
            f"If you agree: rumi pack permissions {pack_id}",
            {"type": kind[:80]},
        )
    return answer


def _permission(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    params = args.get("params", {})
    if not isinstance(params, Mapping) or len(params) > MAX_PARAMS or not all(map(_plain, params.values())):
        expected = f"a map of at most {MAX_PARAMS} texts, numbers or lists of texts"
        raise _wrong("the operation", "params", expected, params)
    named = {str(name): value for name, value in params.items() if name not in {"pack_id", "type", "self"}}
    return _text(args, "type"), named


def _plain(value: Any) -> bool:
    """What a permission's parameters can be. It waits for the operator in memory, so it is small."""
    if isinstance(value, list | tuple):
        return len(value) <= MAX_ITEMS and all(isinstance(item, str) and len(item) <= MAX_ITEM_CHARS for item in value)
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= MAX_TEXT_CHARS)


def _privilege(host: Host, pack_id: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """An operation of the host that the operator granted to this Pack; its schema and limits are the operation's."""
    params = args.get("params", {})
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise _wrong("privilege.execute", "params", "a map with text keys", params)
    return dict(host.privileges.execute(pack_id, _text(args, "privilege"), params))


def _diagnostics(host: Host, pack_id: str, args: Mapping[str, Any]) -> None:
    """An event of the Pack's own; it can't speak for another component or in the host's name."""
    error = args.get("error")
    message = error.get("message") if isinstance(error, Mapping) else error
    host.diagnostics.record(
        phase=_text(args, "phase", "pack")[:80],
        status=_text(args, "status", "unknown"),
        step_id=str(args.get("step_id") or "")[:200] or None,
        target={"kind": "pack", "id": pack_id},
        error={"type": "reported", "message": quote(message, 500)} if message else None,
        meta={"reported_by": pack_id},
    )


def _secret(generation: int, host: Host, pack_id: str, args: Mapping[str, Any]) -> str:
    """A value that the operator entered for this Pack; each generation receives it once."""
    return host.secrets.hand_over(pack_id, generation, _text(args, "name"))


_OPERATIONS: Mapping[str, Operation] = {
    "userdata.read": _read,
    "userdata.write": _write,
    "userdata.list": _list,
    "userdata.exists": _exists,
    "userdata.stat": _stat,
    "userdata.delete": _delete,
    "journal.record": _journal,
    "permission.has": _permission_has,
    "permission.request": _permission_request,
    "privilege.execute": _privilege,
    "diagnostics.record": _diagnostics,
    ONCE: partial(_secret, 0),
}
_SHOWN = frozenset({"permission.request", "diagnostics.record"})
"""Operations whose arguments are kept to be shown: what they say of the Pack's own secrets is hidden first."""


# -- arguments --------------------------------------------------------------------------------------------------------


def _text(args: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = args.get(name, default)
    if isinstance(value, str) and len(value) <= MAX_TEXT_CHARS:
        return value
    raise _wrong("the operation", name, f"text of at most {MAX_TEXT_CHARS} characters", value)


def _texts(args: Mapping[str, Any], name: str) -> list[str]:
    value = args.get(name) or []
    if isinstance(value, list) and len(value) <= 1_000 and all(isinstance(item, str) for item in value):
        return value
    raise _wrong("the operation", name, "a list of at most 1000 texts", value)


def _wrong(operation: str, name: str, expected: str, got: Any) -> RequestError:
    return RequestError(
        f"{operation} got the wrong arguments",
        code="arguments",
        detail=f"{name} must be {expected}; got {quote(got, 80)}.",
        hint="See the bus protocol's list of requests.",
    )
