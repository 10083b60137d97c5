"""Words about the machine and the host as a whole: up, down, status, token, and the tools of the setup core."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say
from rumi_setup.core import places
from rumi_setup.core.problem import SetupError
from rumi_setup.core.words import language

_T = TypeVar("_T")


def guarded(act: Callable[[], _T]) -> _T:
    """Run a part of the setup core; its error becomes the command's, with the core's own exit code."""
    try:
        return act()
    except SetupError as error:
        raise Failure(str(error), error.exit_code, code="setup") from error


@click.command(help=say("Set up whatever is missing, start the host and say where it is."))
@click.option("--detach", "-d", is_flag=True, help=say("Leave it running in the background."))
@click.option("--api-port", type=click.IntRange(1, 65535), envvar="RUMI_API_PORT", default=8765, show_default=True)
@click.option("--web-port", type=click.IntRange(1, 65535), envvar="RUMI_WEB_PORT", default=5000, show_default=True)
@click.option("--isolation", type=click.Choice(["auto", "docker", "embedded"]), envvar="RUMI_ISOLATION", default="auto")
@click.option("--offline", metavar="DIR", type=click.Path(exists=True, file_okay=False),
              help=say("Install from a folder of wheels."))  # fmt: skip
def up(detach: bool, api_port: int, web_port: int, isolation: str, offline: str | None) -> int:  # noqa: FBT001
    from rumi_setup.core import installer, runner

    def start() -> int:
        installer.ensure("runtime", offline)
        return runner.up(detach=detach, api_port=api_port, web_port=web_port, isolation=isolation)

    code = guarded(start)
    if detach and code == 0:
        show.next_step("./rumi pack list")
    return code


@click.command(help=say("Stop the host that serves this home."))
def down() -> int:
    from rumi_setup.core import runner

    stopped = guarded(runner.down)
    if stopped:
        show.next_step("./rumi up")
    return codes.OK if stopped else codes.HOST_DOWN


@click.command(help=say("What runs, what needs a decision, what is wrong."))
@json_option
def status() -> None:
    health = link.ask("GET", "/api/health")
    packs = link.ask("GET", "/api/packs")
    isolation = link.ask("GET", "/api/isolation")
    issues = link.ask("GET", "/api/issues")
    if show.wants_json():
        show.data({"running": True, "health": health, "packs": packs, "isolation": isolation, "issues": issues})
        return
    chosen = isolation.get("isolation") or {}
    show.pairs([
        ("host", health.get("phase")), ("cause", health.get("cause")), ("console", health.get("web")),
        ("API", health.get("api")),
        ("isolation", _isolation(isolation, chosen)),
        ("bus transport", _transport(isolation, chosen)),
    ])  # fmt: skip
    counts: dict[str, int] = {}
    for pack in packs:
        counts[str(pack.get("status"))] = counts.get(str(pack.get("status")), 0) + 1
    show.pairs([("Packs", ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or say("none"))])
    updates = [f"{show.safe(one.get('pack_id'))} {show.safe(one['pending_update'].get('version'))}"
               for one in packs if one.get("pending_update")]  # fmt: skip
    show.section("Updates that wait", updates[:20])
    show.section("Issues", (f"{show.safe(i.get('severity'))}: {issue_title(i)}" for i in issues[:20]))
    if issues:
        show.next_step("./rumi doctor")
    elif counts.keys() & show.WAITING or updates:
        show.next_step("./rumi pack pending")
    else:
        show.next_step("./rumi pack list")


def issue_title(one: dict[str, Any]) -> str:
    """What the host calls it, in the reader's language where it has words for it."""
    return show.safe((language() == "ja" and one.get("title_ja")) or one.get("title"))


def _isolation(isolation: dict[str, Any], chosen: dict[str, Any]) -> str:
    """What isolates Packs and how strongly; what is wrong with it."""
    facts = [f"{chosen.get('driver')} ({chosen.get('level')})" if chosen else "", isolation.get("problem") or ""]
    return ": ".join(filter(None, facts))


def _transport(isolation: dict[str, Any], chosen: dict[str, Any]) -> str:
    """How the bus gets into the sandboxes, where the chosen driver has more than one way."""
    for driver in isolation.get("drivers") or []:
        if driver.get("driver") == chosen.get("driver"):
            return str(driver.get("transport") or "")
    return ""


@click.command(help=say("Print the bearer token of the management API, for programs on other systems or users."))
@click.option("--path", is_flag=True, help=say("Print where it is, not what it is."))
@json_option
def token(path: bool) -> None:  # noqa: FBT001 - click's signature
    home = places.home()
    value = str(link.token_file(home)) if path else link.read_token(home)
    if show.wants_json():
        show.data({"path" if path else "token": value})
    else:
        click.echo(value)
    if not path and sys.stdout.isatty():
        show.words(say("Whoever has this token decides over every Pack. Keep it to yourself."))


_ARGUMENTS = {"ignore_unknown_options": True, "help_option_names": []}


def _core_word(word: str) -> Callable[[tuple[str, ...]], int]:
    def run(arguments: tuple[str, ...]) -> int:
        from rumi_setup.core.entry import inside

        return inside([word, *arguments])

    return run


def _delegated(word: str) -> click.Command:
    """A word of the setup core, with its own options and help."""
    made = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)(_core_word(word))
    return click.command(word, context_settings=_ARGUMENTS, add_help_option=False)(made)


setup = _delegated("setup")
check = _delegated("check")
test = _delegated("test")


@click.command(context_settings=_ARGUMENTS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> int:
    import subprocess

    from rumi_setup.core import installer

    program = places.ROOT / "bench" / "__main__.py"
    if not program.is_file():
        raise Failure(
            say("{path} is missing: this is no complete copy of the project.", path=program), codes.NOT_FOUND,
            say("Fetch the project again."), code="bench_missing",
        )  # fmt: skip
    # Every group that exists needs the host's own packages only; an environment with more serves as well.
    guarded(lambda: installer.ensure("runtime"))
    argv = [str(places.venv_python()), "-m", "bench", *arguments]
    return subprocess.run(argv, cwd=places.ROOT, check=False).returncode
