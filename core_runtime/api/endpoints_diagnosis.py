"""Routes about what is wrong: issues now and before, the checks, and having something mended."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from msgspec.structs import asdict

from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import OBJECTS, Endpoint
from core_runtime.diagnosis.doctor import as_documents, current_issues
from core_runtime.rules.issue_words import title_ja

HISTORY_LINES = 100
HISTORY_LINES_MOST = 2000


SUBJECT = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
"""Of an issue: a Pack, a component, a file, a flow and its modifier, …"""


class Fix(msgspec.Struct, forbid_unknown_fields=True):
    """``issue``: the id of one that stands; without it everything that decides nothing for the operator is mended.

    ``fixup``: which of the issue's suggestions, where it has several.
    """

    issue: str = ""
    fixup: str = ""


async def issues(api: Api, call: Call) -> Any:
    del call
    return [issue.as_dict() for issue in await current_issues(api.host)]


async def history(api: Api, call: Call) -> Any:
    """What stood before, newest first; ``gone_ts`` is null for what was not resolved."""
    count = call.count("lines", HISTORY_LINES, HISTORY_LINES_MOST)
    subject, code = call.text("subject", SUBJECT), call.text("code")
    await api.host.issues.tell()
    found = await asyncio.to_thread(api.host.issues.history.read, limit=count, subject=subject, code=code)
    return [{**asdict(row), "title_ja": title_ja(row.code)} for row in found]


async def doctor(api: Api, call: Call) -> Any:
    """Every check, run now, and the issues that stand then."""
    del call
    looked = await api.host.doctor.examine()
    found = api.host.diagnostics.issues()
    return {
        "healthy": not any(issue.severity.value == "error" for issue in found),
        "checks": as_documents(looked),
        "issues": [issue.as_dict() for issue in found],
        "fixups": [
            {"name": fixup.name, "title": fixup.title, "title_ja": fixup.title_ja, "automatic": fixup.automatic}
            for fixup in api.host.doctor.fixups.values()
        ],
    }


async def fix(api: Api, call: Call) -> Any:
    body = await call.body(Fix)
    if body.issue:
        return as_documents([await api.host.doctor.mend(body.issue, body.fixup, actor=call.actor)])
    return as_documents(await api.host.doctor.mend_all(actor=call.actor))


ENDPOINTS = (
    Endpoint("GET", "/api/issues", "issues", "What is wrong, with what to do about it", issues, OBJECTS),
    Endpoint(
        "GET",
        "/api/issues/history",
        "issueHistory",
        "Which issues there were, newest first, over restarts of the host",
        history,
        OBJECTS,
        query={"lines": HISTORY_LINES_MOST},
        texts=("subject", "code"),
    ),
    Endpoint("GET", "/api/doctor", "doctor", "Run every check now", doctor),
    Endpoint(
        "POST",
        "/api/doctor/fix",
        "fix",
        "Mend one issue as the host suggested, or everything that decides nothing for the operator",
        fix,
        OBJECTS,
        body=Fix,
        errors=(404, 409),
    ),
)
