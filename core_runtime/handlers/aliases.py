"""Use cases about aliases: other names that the operator gives to interfaces.

Where the host itself resolves a name for somebody (a call over HTTP or on the command line, a step of a flow, the
selector ``@alias:`` of a modifier) an alias means its key. Inside a sandbox names mean what is registered under them.

Invariants:
  * Only the operator makes an alias. A name means its key from then on, whoever registers something under that name.
  * Rights, ranges and counts are those of the key: an alias gives nobody anything (``flow_calls``, the bus).
  * What is in force changes whole: to what the file says, or not at all. A start that can't use the file keeps what was
    in force before, which the host writes beside it; so nobody's name changes hands by a slip of the pen.

Not here: the file's form (``backend_core.ecosystem.aliases``), which names may be given (``rules.aliases``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from backend_core.ecosystem.aliases import FILE, LAST, load_aliases, save_aliases
from backend_core.errors import ConflictError, HostError, NotFoundError, RequestError, quote
from core_runtime.function_alias import FunctionAlias
from core_runtime.handlers.host import Host
from core_runtime.rules.aliases import MAX_ALIASES, difference, name_fault

INVALID: Final = "aliases_json_invalid"
CHANGED: Final = "alias.changed"
"""Event and record: ``{added, removed, more}``, at most ``TOLD`` of each, and how many there were besides."""
TOLD: Final = 100


def meant(host: Host, name: str) -> str:
    """The key that ``name`` stands for: itself, unless the operator says otherwise."""
    return host.aliases.resolve(name)


def file_of(host: Host) -> Path:
    """Where the operator's aliases are written."""
    return host.settings.user_data / FILE


def written(host: Host) -> FunctionAlias:
    """What the file says now; blocks. Raises ``HostError`` (``aliases_json_invalid``) where it can't be used."""
    file = file_of(host)
    try:
        return _table(load_aliases(file))
    except (HostError, RequestError) as exc:
        broken = isinstance(exc, HostError)
        raise HostError(
            exc.title if broken else f"{FILE} can't be used",
            code=INVALID,
            detail=exc.detail if broken else f"{exc.title}. {exc.detail}",
            hint=f"Correct {file}, or let `rumi doctor --fix` keep it as a backup and write what is in force.",
            fields={**(exc.fields if broken else {"source": FILE}), "file": str(file)},
        ) from exc


async def open_aliases(host: Host) -> None:
    """At the start: what the file says is in force. One that can't be used is an issue, and what was in force stays."""
    try:
        host.aliases = await asyncio.to_thread(written, host)
    except HostError as error:
        last = await asyncio.to_thread(_last, host)
        host.aliases = FunctionAlias() if last is None else last
        host.note_error(FILE, instead(host, error))
    else:
        await asyncio.to_thread(_keep, host, host.aliases)


def instead(host: Host, error: HostError) -> HostError:
    """What ``written`` raised, with what is in force meanwhile."""
    count = sum(len(names) for names in host.aliases.list_all_mappings().values())
    stays = f"What was in force before stays so (aliases: {count})." if count else "No alias is in force."
    detail = f"{error.detail.rstrip('.')}. {stays}"
    return HostError(error.title, code=error.code, detail=detail, hint=error.hint, fields=error.fields)


def doubt(host: Host) -> str:
    """What else may be why nobody provides a name: that the file can't be used now. ``""`` where it can."""
    why = f"{FILE} can't be used, so an alias that was new in it is not in force: rumi doctor"
    return why if _is_issue(host) else ""


async def looked_at(host: Host) -> None:
    """Have the issue about the file stand, or not, as the file is now; the doctor looks by itself every few minutes."""
    if not host.built("doctor"):
        return
    try:
        await asyncio.to_thread(written, host)
    except HostError:  # the doctor, who is asked below, tells it
        usable = False
    else:
        usable = True
    if usable == _is_issue(host):
        await host.doctor.look_again(INVALID)


def listed(host: Host) -> list[dict[str, Any]]:
    """Every alias in force, by name: ``{alias, key, available, hides}``.

    ``available``: something answers the key now. ``hides``: the Pack that something of this very name belongs to, which
    the name does not mean; None without one.
    """
    return [
        {
            "alias": alias,
            "key": key,
            "available": host.registry.resolve(key) is not None,
            "hides": provider_of(host, alias),
        }
        for alias, key in sorted((a, k) for k, names in host.aliases.list_all_mappings().items() for a in names)
    ]


@contextlib.contextmanager
def told_with(host: Host, name: str, key: str) -> Iterator[None]:
    """Around a call of ``key`` that somebody made by ``name``: that nobody provides it is told with both, and with what
    else may be why.
    """
    try:
        yield
    except NotFoundError as exc:
        why = doubt(host)
        if exc.code != "missing" or exc.fields.get("key") != key or (name == key and not why):
            raise
        detail = exc.detail if name == key else f"{quote(name)} means it. {exc.detail}"
        hint = f"{exc.hint} {why}".strip()
        raise NotFoundError(exc.title, code=exc.code, detail=detail, hint=hint, fields=exc.fields) from exc


def provider_of(host: Host, name: str) -> str | None:
    """Who owns or registered exactly this name: a Pack's id or ``host``; None for nobody."""
    slot = host.registry.slot(name)
    entry = slot.entries[-1] if slot is not None else None
    return host.registry.owner(name) or (None if entry is None else entry.pack or "host")


async def put(host: Host, alias: str, key: str, *, actor: str) -> list[dict[str, Any]]:
    """Let ``alias`` mean ``key``; what is in force then. What the file says besides counts from then on too.

    Raises:
        RequestError: ``alias_invalid``, a name that can't be given.
        ConflictError: ``alias_conflict``, the name means something else already, or somebody provides it.
        HostError: ``aliases_json_invalid``; nothing changed.
    """

    def add(table: FunctionAlias) -> None:
        if table.resolve(alias) == key != alias:
            return
        provider = provider_of(host, alias)
        if provider is not None:
            raise ConflictError(
                f"{quote(alias)} is an interface itself",
                code="alias_conflict",
                detail=f"It belongs to {quote(provider, 70)}; as an alias it would mean {quote(key)} instead.",
                hint="Choose a name that nobody provides. To have another Pack answer that very key: rumi doctor, and"
                " interface_overrides in user_data/active_ecosystem.json.",
            )
        if alias == key:
            raise _invalid(alias, "would mean itself")
        table.add_alias(key, alias)

    return await _change(host, add, actor)


async def remove(host: Host, alias: str, *, actor: str) -> list[dict[str, Any]]:
    """Forget an alias; what is in force then. ``NotFoundError`` for a name that is none; else as ``put``."""

    def forget(table: FunctionAlias) -> None:
        key = table.resolve(alias)
        if not table.remove_alias(alias) and host.aliases.resolve(alias) == alias:
            raise NotFoundError(
                f"{quote(alias)} is no alias", code="alias_unknown", detail="No interface has this other name.",
                hint="See what there is: rumi interface alias list",
            )  # fmt: skip
        if table.find_all(key) == [key]:
            table.remove_canonical(key)

    return await _change(host, forget, actor)


async def adopt(host: Host, *, actor: str) -> list[dict[str, Any]]:
    """Have what the file says now in force; else as ``put``."""
    return await _change(host, lambda _table: None, actor)


# -- inside -----------------------------------------------------------------------------------------------------------


async def _change(host: Host, how: Callable[[FunctionAlias], None], actor: str) -> list[dict[str, Any]]:
    """The file as it is, changed by ``how``, written and in force; nothing of it where a part fails."""
    host.require_evidence()
    async with host.exclusively(FILE):
        before = host.aliases.list_all_mappings()

        def decide() -> tuple[FunctionAlias, dict[str, list[str]]]:
            table = written(host)
            found = table.list_all_mappings()
            how(table)
            after = table.list_all_mappings()
            _table(after)
            changed = difference(before, after)
            if any(changed.values()):
                host.audit.append(CHANGED, actor=actor, **_told(changed))
            if after != found:
                save_aliases(file_of(host), after)
            _keep(host, table)
            return table, changed

        host.aliases, changed = await asyncio.to_thread(decide)
    host.diagnostics.resolve(INVALID, FILE)
    if any(changed.values()):
        host.events.publish(CHANGED, _told(changed))
    return listed(host)


def _is_issue(host: Host) -> bool:
    return any(issue.code == INVALID for issue in host.diagnostics.issues(FILE))


def _last(host: Host) -> FunctionAlias | None:
    """What was in force last; None where that is not known."""
    try:
        return _table(load_aliases(_last_file(host)))
    except (HostError, RequestError):  # nobody's to mend: the next file that can be used is kept over it
        return None


def _keep(host: Host, table: FunctionAlias) -> None:
    """Have a start that can't use the file find these."""
    last, mappings = _last(host), table.list_all_mappings()
    if last is not None and last.list_all_mappings() == mappings:
        return
    try:
        save_aliases(_last_file(host), mappings)
    except OSError:
        # They count without it. But what it said before must not come back, such as a name that was taken away.
        with contextlib.suppress(OSError):  # a folder that can't be written is told by whatever writes there
            _last_file(host).unlink(missing_ok=True)


def _last_file(host: Host) -> Path:
    return host.settings.user_data / LAST


def _table(aliases: Mapping[str, Sequence[str]]) -> FunctionAlias:
    """The table of these. Raises ``RequestError`` for names that can't be given, ``ConflictError`` for two meanings."""
    count = sum(len(names) for names in aliases.values())
    if count > MAX_ALIASES:
        raise RequestError(
            "There are too many aliases", code="alias_invalid", detail=f"expected at most {MAX_ALIASES}, found {count}",
            hint="Remove some: rumi interface alias remove NAME",
        )  # fmt: skip
    for name in (name for key, names in aliases.items() for name in (key, *names)):
        if fault := name_fault(name):
            raise _invalid(name, fault)
    return FunctionAlias.of(aliases)


def _invalid(name: str, fault: str) -> RequestError:
    return RequestError(
        "This can't be an alias, nor have one", code="alias_invalid", detail=f"{quote(name, 80)} {fault}",
        hint="Give two keys of interfaces, such as store.get and db.get.",
    )  # fmt: skip


def _told(changed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    more = sum(max(0, len(pairs) - TOLD) for pairs in changed.values())
    return {**{name: list(pairs[:TOLD]) for name, pairs in changed.items()}, "more": more}
