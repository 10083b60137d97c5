"""`rumi doctor` and `rumi issue`: what is wrong with this installation, now and before, and what mends it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import urlencode

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.machine import guarded, issue_title
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say
from rumi_setup.core.words import language

_Answer = TypeVar("_Answer", list[Any], dict[str, Any])
_MOST_SHOWN = 50


@click.command(help=say("Find what is wrong with this installation; --fix mends what can be mended, keeping backups."))
@click.option("--fix", is_flag=True, help=say("Mend what can be mended."))
@json_option
def doctor(fix: bool) -> int:  # noqa: FBT001 - click's signature
    from rumi_setup.core import checker, recovery

    mended = guarded(recovery.fix) if fix else []
    by_host = _asked_of_host("POST", "/api/doctor/fix", list, {}) if fix else []
    found = guarded(recovery.diagnose)
    checks = [check for check in guarded(checker.run_checks) if check.status is not checker.Status.OK]
    host = _asked_of_host("GET", "/api/doctor", dict)
    reported = list(host.get("issues") or [])
    isolation = _asked_of_host("GET", "/api/isolation", dict)
    healthy = recovery.healthy(found) and not any(issue.get("severity") == "error" for issue in reported)
    if show.wants_json():
        show.data({
            "healthy": healthy, "issues": [asdict(issue) for issue in found], "fixed": [asdict(m) for m in mended],
            "checks": [{"id": c.id, "status": c.status.value, "detail": c.detail, "hint": c.hint} for c in checks],
            "host_issues": reported, "host_fixed": by_host, "host_checks": host.get("checks") or [],
            "isolation": isolation or None,
        })  # fmt: skip
        return codes.OK if healthy else codes.FAILED
    lines = [f"{m.id}: {show.safe(m.message)}" for m in mended]
    show.section("Mended", [*lines, *(_mended_line(m) for m in by_host)])
    show.section("Found", (f"{issue.severity:5}  {issue.id}: {show.safe(issue.message)}" for issue in found))
    show.section("Machine", (f"{c.title}: {show.safe(c.detail)}" + (f"  → {c.hint}" if c.hint else "") for c in checks))
    show.section("Isolation", (_driver_line(driver) for driver in isolation.get("drivers") or []))
    show.section("Host", (_issue_line(issue) for issue in reported[:_MOST_SHOWN]))
    show.section("Not looked at", (_check_line(c) for c in host.get("checks") or [] if c.get("status") == "unfinished"))
    show.words(say("Healthy.") if healthy else say("Not healthy."))
    if not healthy:
        show.next_step("./rumi issue list" if fix else "./rumi doctor --fix")
    return codes.OK if healthy else codes.FAILED


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("What is wrong: list, fix, history"))
def issue() -> None:
    pass


@issue.command("list", help=say("What stands now, with what to do about it."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/issues")
    if show.wants_json():
        show.data(found)
        return
    for one in found:
        click.echo(_issue_line(one))
        for offer in one.get("suggestions") or []:
            if offer.get("fixup"):
                click.echo(f"       ./rumi issue fix {show.safe(one.get('id'), 300)}")
    show.next_step("./rumi doctor")


@issue.command(help=say("Have the host mend one issue as it suggested."))
@click.argument("issue_id", metavar="ISSUE")
@click.option("--fixup", default="", help=say("Which suggestion, where there are several."))
@json_option
def fix(issue_id: str, fixup: str) -> int:
    done = link.ask("POST", "/api/doctor/fix", {"issue": issue_id, "fixup": fixup})
    failed = any(not one.get("success") for one in done)
    if show.wants_json():
        show.data(done)
    else:
        for one in done:
            click.echo(_mended_line(one))
    show.next_step("./rumi issue list")
    return codes.FAILED if failed else codes.OK


@issue.command(help=say("What stood before, newest first, over restarts of the host."))
@click.option("--lines", "-n", type=click.IntRange(1, 2000), default=50, show_default=True)
@click.option("--subject", default="", help=say("Only about this Pack or part."))
@click.option("--code", default="", help=say("Only issues of this kind."))
@json_option
def history(lines: int, subject: str, code: str) -> None:
    asked = {"lines": lines, "subject": subject, "code": code}
    found = link.ask("GET", f"/api/issues/history?{urlencode({name: value for name, value in asked.items() if value})}")
    if show.wants_json():
        show.data(found)
        return
    for one in found:
        until = _moment(one["gone_ts"]) if one.get("gone_ts") else say("stands")
        click.echo(f"{_moment(one['first_ts'])} – {until}  {_issue_line(one)}")
    show.next_step("./rumi doctor")


def _asked_of_host(method: str, path: str, kind: type[_Answer], body: dict[str, Any] | None = None) -> _Answer:
    """What the running host reports; nothing when none runs, which is no fault of the installation."""
    try:
        found = link.ask(method, path, body)
    except Failure as failure:
        if failure.exit_code != codes.HOST_DOWN:
            raise
        return kind()
    return found if isinstance(found, kind) else kind()


def _driver_line(driver: dict[str, Any]) -> str:
    facts = [driver.get("level") if driver.get("available") else driver.get("reason"), driver.get("version")]
    facts += [driver.get("transport"), driver.get("reason") if driver.get("available") else driver.get("hint")]
    return f"{show.safe(driver.get('driver'))}: " + "; ".join(show.safe(fact, 500) for fact in facts if fact)


def _issue_line(one: dict[str, Any]) -> str:
    hint = show.safe(one.get("hint"))
    about = f"{show.safe(one.get('severity'))}  {show.safe(one.get('subject'))}: {issue_title(one)}"
    return about + (f"  → {hint}" if hint else "")


def _check_line(check: dict[str, Any]) -> str:
    return show.safe(check.get("title_ja" if language() == "ja" else "title"))


def _mended_line(one: dict[str, Any]) -> str:
    outcome = say("mended") if one.get("success") else say("not mended")
    return f"{show.safe(one.get('issue'))}: {outcome}: {show.safe(one.get('message'))}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
