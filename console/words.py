"""The pages' words in Japanese and English, and the choice between them by ``Accept-Language``.

Invariant: both catalogues have the same keys (a test compares them). Text of Packs is never looked up here.
"""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES = ("en", "ja")

_EN = {
    "title": "Rumi AI OS",
    "overview": "Overview",
    "skip": "Skip to content",
    "decide": "Needs your decision",
    "decide_none": "Nothing waits for a decision.",
    "decide_how": "Read what it asks for, then approve or reject it in a terminal:",
    "review": "Review",
    "approve": "Approve",
    "reject": "Reject",
    "or": "or",
    "packs": "Packs",
    "packs_none": "No Packs yet. Put one into ecosystem/packs/, or let the host write a first one:",
    "packs_unknown": "The host does not know its Packs yet. Reload in a moment; the issues say if something failed.",
    "pack": "Pack",
    "state": "State",
    "version": "Version",
    "cause": "Cause",
    "changed": "Changed files",
    "more": "and {count} more",
    "interfaces": "Interfaces",
    "interfaces_none": "Nothing can be called yet. Interfaces appear when an approved Pack runs.",
    "key": "Key",
    "provider": "Provided by",
    "call": "Call it from a terminal:",
    "isolation": "Isolation",
    "isolation_none": "Docker is required but not available",
    "isolation_none_text": "No sandbox of this machine passed its probe, so nothing of any Pack runs.",
    "isolation_wait": "The machine is still being examined. Reload in a moment.",
    "driver": "Driver",
    "level": "Level",
    "available": "available",
    "not_available": "not available",
    "in_use": "in use",
    "issues": "Issues",
    "issues_none": "No issues.",
    "next": "What to do",
    "phase": "The host is",
    "phase_starting": "starting its Packs",
    "phase_ready": "ready",
    "phase_failed": "not fully started",
    "phase_stopping": "stopping",
    "state_installed": "installed",
    "state_pending": "waiting for a decision",
    "state_approved": "approved, not running",
    "state_running": "running",
    "state_modified": "modified",
    "state_blocked": "rejected",
    "state_error": "error",
    "level_none": "none",
    "level_reduced": "reduced",
    "level_standard": "standard",
    "level_strong": "strong",
    "severity_info": "note",
    "severity_warn": "warning",
    "severity_error": "error",
    "api": "Management API",
    "refused": "This page can't be shown",
    "refused_401": "The host does not know who is asking. On Linux it shows its pages to the user who started it.",
    "unknown": "There is no such page",
    "back": "To the overview",
    "failed": "The host failed at this page. Its log says why, under the reference",
}

_JA = {
    "title": "Rumi AI OS",
    "overview": "概要",
    "skip": "本文へ移動",
    "decide": "あなたの判断が必要です",
    "decide_none": "判断を待っている Pack はありません。",
    "decide_how": "要求の内容を確認し、ターミナルで承認または拒否してください。",
    "review": "確認",
    "approve": "承認",
    "reject": "拒否",
    "or": "または",
    "packs": "Pack",
    "packs_none": "Pack はまだありません。ecosystem/packs/ に置くか、最初の一つを作成してください。",
    "packs_unknown": "ホストはまだ Pack を把握していません。少し待って再読み込みしてください。",
    "pack": "Pack",
    "state": "状態",
    "version": "バージョン",
    "cause": "理由",
    "changed": "変更されたファイル",
    "more": "ほか {count} 件",
    "interfaces": "インターフェース",
    "interfaces_none": "呼び出せるものはまだありません。承認した Pack が動くと表示されます。",
    "key": "キー",
    "provider": "提供元",
    "call": "ターミナルから呼び出すには:",
    "isolation": "隔離",
    "isolation_none": "Docker が必要ですが、利用できません",
    "isolation_none_text": "このマシンのサンドボックスはどれも検査に合格しなかったため、Pack は一切実行されません。",
    "isolation_wait": "このマシンを調べています。少し待って再読み込みしてください。",
    "driver": "ドライバー",
    "level": "レベル",
    "available": "利用可能",
    "not_available": "利用不可",
    "in_use": "使用中",
    "issues": "問題",
    "issues_none": "問題はありません。",
    "next": "対処",
    "phase": "ホストの状態:",
    "phase_starting": "Pack を起動中",
    "phase_ready": "準備完了",
    "phase_failed": "起動が完了していません",
    "phase_stopping": "停止中",
    "state_installed": "設置済み",
    "state_pending": "承認待ち",
    "state_approved": "承認済み(停止中)",
    "state_running": "実行中",
    "state_modified": "変更あり",
    "state_blocked": "拒否済み",
    "state_error": "エラー",
    "level_none": "なし",
    "level_reduced": "限定的",
    "level_standard": "標準",
    "level_strong": "強",
    "severity_info": "お知らせ",
    "severity_warn": "警告",
    "severity_error": "エラー",
    "api": "管理 API",
    "refused": "このページは表示できません",
    "refused_401": "要求した利用者を確認できませんでした。Linux では、ホストを起動した利用者にだけページを表示します。",
    "unknown": "そのページはありません",
    "back": "概要へ",
    "failed": "このページでホストの処理が失敗しました。次の参照番号でログに詳細があります:",
}

CATALOGUES: Mapping[str, Mapping[str, str]] = {"en": _EN, "ja": _JA}


def language(accept: str) -> str:
    """The best of ``LANGUAGES`` for an ``Accept-Language`` header; English when it names neither."""
    best, best_quality = LANGUAGES[0], 0.0
    for part in accept[:500].split(","):
        tag, _, parameters = part.strip().partition(";")
        name = tag.strip().lower().split("-")[0]
        quality = _quality(parameters)
        if name in LANGUAGES and quality > best_quality:
            best, best_quality = name, quality
    return best


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        quality = float(value)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
