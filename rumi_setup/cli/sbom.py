"""`rumi pack sbom`: the bill of materials of a Pack that the host knows, or of any folder or archive."""

from __future__ import annotations

from pathlib import Path

import click

from rumi_setup.cli import author, link, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.packs import checked
from rumi_setup.cli.words import say


@click.command(help=say("The bill of materials of a Pack as CycloneDX 1.6: files and packages with hashes."))
@click.argument("source", metavar="PACK_ID|FOLDER|ARCHIVE")
@click.option("--update", is_flag=True, help=say("Of the version that waits for a decision."))
@click.option("--output", "-o", metavar="FILE", type=click.Path(dir_okay=False), help=say("Into this file."))
@json_option
def sbom(source: str, update: bool, output: str | None) -> None:  # noqa: FBT001 - click's signature
    if _is_path(source):
        if update:
            raise click.UsageError(say("--update is for a Pack that the host knows; {source} is a path.",
                                       source=show.safe(source)))  # fmt: skip
        found = author.ask("sbom", source=str(Path(source).absolute()))
    else:
        found = link.ask("GET", f"/api/packs/{checked(source)}{'/update' if update else ''}/sbom")
    if output is None:
        show.data(found)
        return
    Path(output).write_text(show.as_json(found) + "\n", encoding="utf-8")
    show.words(say("{n} components in {file}.", n=len(found["components"]), file=show.safe(output)))


def _is_path(source: str) -> bool:
    """A bare name is a Pack's, also where a folder of that name lies here; write ``./NAME`` for the folder."""
    return "/" in source or "." in source
