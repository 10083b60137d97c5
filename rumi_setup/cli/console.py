"""`rumi open`: the console in the browser, through a file that only this user can read."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from rumi_setup.cli import link, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say


@click.command("open", help=say("Open the console in your browser, with a session that may decide."))
@click.option("--print", "only_print", is_flag=True, help=say("Print the file to open, and start no browser."))
@json_option
def open_(only_print: bool) -> None:  # noqa: FBT001 - click's signature
    made = link.ask("POST", "/api/console/open")
    path = Path(str(made.get("path")))
    started = not only_print and not show.wants_json() and _start_browser(path)
    if show.wants_json():
        show.data(made)
        return
    click.echo(show.safe(path, 4096))
    seconds = show.safe(made.get("expires_in_s"))
    if started:
        show.words(say("Your browser opens this file. It works once, for {n} seconds.", n=seconds))
    else:
        show.words(say("Open this file in a browser of yours. It works once, for {n} seconds.", n=seconds))


def _start_browser(path: Path) -> bool:
    """Only where there is a screen: a browser of the terminal would take the terminal over."""
    screen = sys.platform in {"win32", "darwin"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    return screen and webbrowser.open(path.as_uri())
