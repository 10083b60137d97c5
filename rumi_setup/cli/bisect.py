"""`rumi bisect`: which Pack breaks a call. The host stops and starts Packs by turns; this shows its report."""

from __future__ import annotations

from typing import Any

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.interfaces import parsed
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say

_LIMIT_S = 4 * 3600.0


@click.command(
    help=say(
        "Find the Pack that breaks a call: Packs are stopped and started by turns, and all run again afterwards. "
        "Bad is an error, or a result other than --expect."
    )
)
@click.argument("key")
@click.argument("arguments", default="{}", metavar="[JSON]")
@click.option("--expect", metavar="JSON", help=say("The good result; without it every result is good."))
@click.option(
    "--repeat", type=click.IntRange(1, 50), default=3, show_default=True,
    help=say("Calls in each trial; one that fails now and then needs more."),
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, 600, min_open=True), default=20.0, show_default=True,
    help=say("Seconds to wait for each call."),
)  # fmt: skip
@json_option
def bisect(key: str, arguments: str, expect: str | None, repeat: int, timeout_s: float) -> int:
    body: dict[str, Any] = {"key": key, "args": parsed(arguments), "repeat": repeat, "timeout": timeout_s}
    if expect is not None:
        body["expect"] = parsed(expect)
    found = link.ask("POST", "/api/bisect", body, timeout_s=_LIMIT_S)
    restored = not found.get("not_restored")
    if show.wants_json():
        show.data(found)
        return codes.OK if restored else codes.FAILED
    trials = found.get("trials") or []
    show.table(("trial", "running beside", "failed", "error"), [_row(n, one) for n, one in enumerate(trials, 1)])
    click.echo(_verdict(found))
    if found.get("flaky"):
        show.words(say("It fails only now and then: the more --repeat, the surer the answer."))
    for pack_id, why in (found.get("not_restored") or {}).items():
        show.words(say("{pack} did not start again: {why}", pack=show.safe(pack_id), why=show.safe(why, 300)))
    packs = found.get("packs") or []
    show.next_step(f"./rumi pack show {show.safe(packs[0])}" if packs else f"./rumi call {show.safe(key)} '{{}}'")
    return codes.OK if restored else codes.FAILED


def _row(number: int, trial: dict[str, Any]) -> tuple[object, ...]:
    running = trial.get("running") or []
    named = ", ".join(running[:3]) + (", …" if len(running) > 3 else "")
    error = trial.get("error") or {}
    told = ": ".join(text for text in (error.get("title"), error.get("detail")) if text)
    beside = f"{len(running)} ({named})" if running else 0
    return number, beside, f"{trial.get('failed')}/{trial.get('calls')}", told


def _verdict(found: dict[str, Any]) -> str:
    packs = ", ".join(show.safe(name) for name in found.get("packs") or [])
    key = show.safe(found.get("key"))
    verdict = found.get("verdict")
    if verdict == "works":
        return say("{key} works now, with every Pack running: there is nothing to find.", key=key)
    if verdict == "own":
        return say(
            "{key} fails also while nothing runs but what it needs. The fault lies in: {packs}", key=key, packs=packs
        )
    if verdict == "found":
        return say("{key} is broken by: {packs}. Without, it works.", key=key, packs=packs)
    return say("{key} did not fail the same way twice. Most likely: {packs}", key=key, packs=packs)
