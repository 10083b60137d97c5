"""`rumi pack validate|test`: what an author asks before anybody else sees the Pack; no host needs to run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rumi_setup.cli import author, codes, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say
from rumi_setup.core import installer, places

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(help=say("What is wrong with a Pack's folder or archive, line by line; nothing of it is run."))
@click.argument("source", metavar="FOLDER|ARCHIVE", type=click.Path(exists=True))
@json_option
def validate(source: str) -> int:
    found = author.ask("validate", source=str(Path(source).absolute()))
    code = codes.OK if found["valid"] else codes.PACK_FAILED
    if show.wants_json():
        show.data(found)
        return code
    for problem in found["problems"]:
        show_problem(problem)
    rating = (found["review"].get("rating") or {}).get("grade", "")
    show.pairs([
        ("pack", found["pack_id"]), ("version", found["version"]), ("digest", found["digest"]), ("rating", rating),
    ])  # fmt: skip
    if found["valid"]:
        show.next_step(f"./rumi pack test {show.safe(source)}")
    return code


def show_problem(one: dict[str, Any]) -> None:
    """One thing that is wrong, with its place."""
    place = show.safe(one["file"])
    if one["line"]:
        place += f":{int(one['line'])}:{int(one['column'])}"
    if one["pointer"]:
        place += f" {show.safe(one['pointer'])}"
    words = {"error": say("error"), "warning": say("warning"), "note": say("note")}
    level = click.style(words.get(one["level"], ""), fg=_COLOURS.get(one["level"]))
    click.echo(f"{level}: {place}: {show.safe(one['title'])}" if place else f"{level}: {show.safe(one['title'])}")
    for name, value in ((say("expected"), one["expected"]), (say("found"), one["found"]), (say("hint"), one["hint"])):
        if value:
            click.echo(f"    {name}: {show.safe(value)}")


@click.command(
    help=say("Run a Pack's own tests, with the Pack in the embedded sandbox; the rest goes to pytest."),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(folder: str, pytest_arguments: Sequence[str]) -> int:
    from rumi_setup.cli.machine import guarded

    where = Path(folder).absolute()
    if not pytest_arguments and not (where / "tests").is_dir():
        raise Failure(
            say("{folder} has no tests.", folder=show.safe(str(where))), codes.NOT_FOUND,
            say("Write tests/test_*.py with the fixture `rumi`; see docs/ecosystem.md."), code="no_tests",
        )  # fmt: skip
    guarded(lambda: installer.ensure("dev"))
    paths = [str(places.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # what pytest writes beside its tests would be a change of the Pack
    argv = [
        str(places.venv_python()), "-B", "-m", "pytest", "-p", "rumi_testing.plugin", "-p", "no:cacheprovider",
        "--rootdir", str(where), "--rumi-pack", str(where), *(pytest_arguments or ("tests",)),
    ]  # fmt: skip
    done = subprocess.run(argv, cwd=where, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False)
    return codes.OK if done.returncode == 0 else codes.FAILED
