"""The root of the command: which words there are, help that imports nothing, and the one place where failures end."""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from rumi_setup.cli import codes
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.words import say

_HERE = "rumi_setup.cli"

# word → (module, attribute, short help). Modules are imported when their word is used.
COMMANDS = {
    "up": ("machine", "up", "Set up whatever is missing and run the host"),
    "down": ("machine", "down", "Stop the host"),
    "open": ("console", "open_", "Open the console in the browser"),
    "status": ("machine", "status", "What runs, what needs a decision, what is wrong"),
    "pack": ("packs", "pack", "Packs: list, review, approve, reject, start, stop, new"),
    "call": ("interfaces", "call", 'Call an interface: rumi call KEY \'{"name": "value"}\''),
    "bisect": ("bisect", "bisect", "Find the Pack that breaks a call"),
    "interface": ("interfaces", "interface", "Interfaces: list, show, edges, alias"),
    "events": ("events", "events", "What happened, as events; --follow goes on"),
    "flow": ("flows", "flow", "Flows: list, validate, run, explain, graph, plan, runs"),
    "history": ("history", "history", "Past runs of flows and Packs, over restarts"),
    "logs": ("interfaces", "logs", "What a Pack printed and logged last"),
    "privilege": ("privileges", "privilege", "Operations of the host for Packs: list, grant, revoke, reset, execute"),
    "secret": ("secrets", "secret", "Passwords and keys for Packs: set, list, remove"),
    "publisher": ("signing", "publisher", "Publishers of signed Packs: list, forget, reset, new"),
    "audit": ("evidence", "audit", "The audit trail: tail, verify, acknowledge"),
    "trust": ("evidence", "trust", "The signing key: rotate-key"),
    "container": ("containers", "container", "Running containers: list, start, stop"),
    "doctor": ("diagnosis", "doctor", "Find what is wrong, and mend it with --fix"),
    "issue": ("diagnosis", "issue", "What is wrong: list, fix, history"),
    "token": ("machine", "token", "The management API's bearer token"),
    "setup": ("machine", "setup", "Set up the environment"),
    "check": ("machine", "check", "Run the quick checks over the source"),
    "test": ("machine", "test", "Set up whatever is missing and run all tests"),
    "bench": ("machine", "bench", "Measure"),
}


class Lazy(click.Group):
    """A group whose commands are imported when used, and that suggests what was meant."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._table:
            module, attribute, _ = self._table[cmd_name]
            found: click.Command = getattr(importlib.import_module(f"{_HERE}.{module}"), attribute)
            return found
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            near = difflib.get_close_matches(word, self.list_commands(ctx), n=1, cutoff=0.5)
            sentence = say("No command is called {word!r}.", word=word)
            if near:
                sentence += " " + say("Did you mean {near!r}?", near=f"{ctx.command_path} {near[0]}")
            raise click.UsageError(sentence, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(word, say(entry[2])) for word, entry in self._table.items()]
        for word in super().list_commands(ctx):
            command = super().get_command(ctx, word)
            if command is not None and not command.hidden:
                rows.append((word, command.get_short_help_str(80)))
        with formatter.section(say("Commands")):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if ctx.parent is None:
            with formatter.section(say("Exit codes")):
                formatter.write_dl([(str(code), say(meaning)) for code, meaning in codes.MEANING])


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        ctx.find_root().ensure_object(dict)["json"] = True


json_option = click.option(
    "--json", is_flag=True, expose_value=False, is_eager=True, callback=_set_json, help=say("Print JSON.")
)

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(
    cls=Lazy, table=COMMANDS, context_settings=SETTINGS, help=say("Rumi: runs Packs, each in its own sandbox.")
)
@json_option
@click.pass_context
def root(ctx: click.Context) -> None:
    ctx.ensure_object(dict)


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code."""
    for channel in (sys.stdout, sys.stderr):
        if isinstance(channel, io.TextIOWrapper):
            channel.reconfigure(errors="backslashreplace")  # a terminal that lacks a character must not end a command
    as_document = "--json" in arguments
    try:
        result = root.main(args=list(arguments), prog_name="rumi", standalone_mode=False)
    except Failure as found:
        from rumi_setup.cli import show

        show.failure(found, as_document=as_document)
        return found.exit_code
    except click.ClickException as error:
        error.show()
        return codes.USAGE if isinstance(error, click.UsageError) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(say("Interrupted."), err=True)
        return codes.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return codes.OK
    return result if isinstance(result, int) else codes.OK
