"""The security rating: 100 points less one line per reason, so that the number can be argued with. Pure.

It rates what a Pack *could* do if everything it asks for were granted; it says nothing about what the author intends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from backend_core.ecosystem.spec.models import PermissionRequest
from core_runtime.rules.combination import Combination
from core_runtime.rules.egress import private_addresses
from core_runtime.rules.findings import Finding
from core_runtime.rules.permissions import KINDS

FULL: Final = 100
GRADES: Final = ((90, "A"), (75, "B"), (55, "C"), (30, "D"), (0, "E"))
_RISK_POINTS: Final = {"low": 2, "medium": 8, "high": 20}
_FINDINGS: Final[Mapping[str, tuple[int, str, str]]] = {
    "invisible_text": (25, "text with invisible characters", "見えない文字を含むテキスト"),
    "native_code": (20, "machine code that nobody can read", "読めない機械語"),
    "native_dependency": (10, "packages with machine code", "機械語を含むパッケージ"),
    "unseen_dependency": (
        5,
        "a lock of packages that nobody has looked at yet",
        "まだ誰も中を見ていないパッケージの一覧",
    ),
    "startup_hook": (15, "files that Python may run by itself", "自動で実行され得るファイル"),
    "bytecode": (10, "compiled Python without a promise of its source", "ソースと一致する保証のないバイトコード"),
    "unscannable": (5, "files that could not be looked at", "確認できないファイル"),
}


class Deduction(Struct, frozen=True):
    """Points and the reason, in both languages."""

    points: int
    reason: str
    reason_ja: str


class Rating(Struct, frozen=True):
    """``score`` of 100, its grade from A to E, and every deduction."""

    score: int
    grade: str
    deductions: tuple[Deduction, ...]


def rate(
    requests: Sequence[PermissionRequest],
    findings: Sequence[Finding],
    *,
    replaces: Sequence[str],
    risk: Combination | None,
) -> Rating:
    """Rate a Pack by what it asks for and what its files are."""
    lines = [*_permission_lines(requests), *_finding_lines(findings)]
    if replaces:
        keys = ", ".join(sorted(replaces)[:5])
        lines.append(Deduction(15, f"provides what other Packs own: {keys}", f"他の Pack が所有する機能を提供: {keys}"))
    if risk is not None:
        points = 25 if risk.complete else 15
        lines.append(Deduction(points, risk.sentence(), "組み合わせるとデータが外に出る可能性があります"))
    score = max(0, FULL - sum(line.points for line in lines))
    return Rating(score, next(grade for least, grade in GRADES if score >= least), tuple(lines))


def _permission_lines(requests: Sequence[PermissionRequest]) -> list[Deduction]:
    lines = []
    for kind, count in sorted(Counter(request.type for request in requests).items()):
        known = KINDS.get(kind)
        risk = known.risk if known else "high"
        english = known.words["en"] if known else "has the host act on the machine"
        japanese = known.words["ja"] if known else "ホストにこのマシン上の操作をさせます"
        times = f" ({count} times)" if count > 1 else ""
        lines.append(Deduction(_RISK_POINTS[risk], f"{kind}: {english}{times}", f"{kind}: {japanese}"))
    inside = private_addresses([str(text) for request in requests for text in request.params.get("addresses", ())])
    if inside:
        shown = ", ".join(inside[:5])
        lines.append(
            Deduction(15, f"reaches into your own network: {shown}", f"あなたのネットワークの内側に届く: {shown}")
        )
    missing = sum(not request.reason.strip() for request in requests if request.type != "interface.call")
    if missing:
        lines.append(Deduction(5, f"{missing} permissions without a reason", f"理由のない権限が {missing} 件"))
    return lines


def _finding_lines(findings: Sequence[Finding]) -> list[Deduction]:
    counts = Counter(finding.code for finding in findings)
    lines = []
    for code, (points, english, japanese) in _FINDINGS.items():
        if counts[code]:
            lines.append(Deduction(points, f"{counts[code]} × {english}", f"{counts[code]} × {japanese}"))
    return lines
