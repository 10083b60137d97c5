"""What the first page shows, gathered from the host's views: what runs, what needs a decision, what broke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend_core.errors import HostError
from core_runtime.api import views
from core_runtime.api.call import INTERFACE_KEY
from core_runtime.api.context import Api, Phase
from core_runtime.api.endpoints_machine import isolation_view
from core_runtime.approval_manager import PackStatus
from core_runtime.diagnosis.doctor import current_issues
from core_runtime.handlers import packs
from core_runtime.rules.approval import UNDECIDED

PATHS_SHOWN = 5
ISSUES_SHOWN = 50
DECISIONS_SHOWN = 20
"""Packs that wait for a decision and are shown with what to do; the others stand in the table below."""


@dataclass(frozen=True, slots=True)
class Overview:
    """One moment of the host. The entries are the API's own views, plus ``commands`` for the reader."""

    phase: str
    cause: str | None
    api_url: str
    known: bool
    packs: list[dict[str, Any]]
    waiting: list[dict[str, Any]]
    more_waiting: int
    interfaces: list[dict[str, Any]]
    isolation: dict[str, Any]
    examined: bool
    issues: list[dict[str, Any]]
    call_command: str


async def overview(api: Api) -> Overview:
    """Reads what the host knows already; nothing is scanned for a page view."""
    statuses = await _known_packs(api)
    url = f"http://localhost:{api.settings.api_port}"
    interfaces = await packs.interfaces(api.host)
    undecided = [status for status in statuses or () if status.state in UNDECIDED]
    issues = (await current_issues(api.host))[-ISSUES_SHOWN:]
    return Overview(
        phase=api.phase.value,
        cause=api.cause or None,
        api_url=url,
        known=statuses is not None,
        packs=[_pack(views.pack(status)) for status in statuses or ()],
        waiting=[_waiting(views.pack(status), url) for status in undecided[:DECISIONS_SHOWN]],
        more_waiting=max(0, len(undecided) - DECISIONS_SHOWN),
        interfaces=interfaces,
        isolation=isolation_view(api),
        examined=bool(api.host.statuses),
        issues=[issue.as_dict() for issue in reversed(issues)],
        call_command=_call_command(interfaces, url),
    )


async def _known_packs(api: Api) -> list[PackStatus] | None:
    """``None`` while the part of the host that knows them is still being built."""
    try:
        return await packs.list_packs(api.host)
    except HostError:
        if api.phase is Phase.READY:
            raise
        return None


def _pack(view: dict[str, Any]) -> dict[str, Any]:
    paths = view["changed_paths"]
    return {**view, "changed_paths": paths[:PATHS_SHOWN], "more_paths": max(0, len(paths) - PATHS_SHOWN)}


def _waiting(view: dict[str, Any], url: str) -> dict[str, Any]:
    pack_id = view["pack_id"]
    return {
        **view,
        "commands": {
            "review": f"./rumi pack review {pack_id}",
            "approve": f"./rumi pack approve {pack_id}",
            "approve_curl": f"curl -X POST {url}/api/packs/{pack_id}/approve",
            "reject": f"./rumi pack reject {pack_id}",
        },
    }


def _call_command(interfaces: list[dict[str, Any]], url: str) -> str:
    """For the first key that the API's path admits: a command for copying never holds anything else of a Pack."""
    key = next((entry["key"] for entry in interfaces if INTERFACE_KEY.fullmatch(entry["key"])), None)
    if key is None:
        return ""
    return f"curl -X POST {url}/api/interfaces/{key}/call -H 'Content-Type: application/json' -d '{{\"args\": {{}}}}'"
