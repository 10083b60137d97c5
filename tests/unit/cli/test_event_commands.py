"""Events on the command line: what is told of those that are published while they are being listed."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rumi_setup.cli import link
from rumi_setup.cli.main import main
from tests.support.socket_host import SocketHost, serving


class Publishing(SocketHost):
    """A host on whose bus something happens before and after each listing; its stream ends when that was told."""

    def __init__(self) -> None:
        super().__init__()
        self.published = [_event(1, "mine"), _event(2, "other")]
        self._listed = threading.Event()
        self.answers["GET /api/events"] = lambda _body: self._from_now_on(len(self.published))
        for chosen in ("", "&pack=mine"):
            self.answers[f"GET /api/events/kept?count=50{chosen}"] = lambda _body, chosen=chosen: self._kept(chosen)

    def _publish(self) -> None:
        number = len(self.published)
        self.published += [_event(number + 1, "mine"), _event(number + 2, "other")]

    def _kept(self, chosen: str) -> list[dict[str, Any]]:
        self._publish()
        found = [one for one in self.published if not chosen or one["source"] == "rumi:pack/mine"]
        self._publish()
        self._listed.set()
        return found

    def _from_now_on(self, at: int) -> Iterator[bytes]:
        yield b'event: open\ndata: {"replay_from": null}\n\n'
        assert self._listed.wait(20)
        for one in self.published[at:]:
            yield f"id: {one['id']}\nevent: event\ndata: {json.dumps(one)}\n\n".encode()


def _event(number: int, pack_id: str) -> dict[str, Any]:
    return {"id": f"0000abcd-{number}", "source": f"rumi:pack/{pack_id}", "type": "news", "time": "now", "data": number}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publishing]:
    with tempfile.TemporaryDirectory(prefix="r") as short:  # a socket's path has 107 bytes at most
        for name, value in (("XDG_RUNTIME_DIR", short), ("RUMI_HOME", str(tmp_path)), ("RUMI_LANG", "en"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
        folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
        with serving(folder / "api.sock", Publishing()) as found:
            yield found


@pytest.mark.parametrize(("options", "numbers"), [((), [1, 2, 3, 4, 5, 6]), (("--pack", "mine"), [1, 3, 5])])
def test_what_is_published_while_past_events_are_listed_is_told_once(host, capsys, options, numbers) -> None:
    assert main(["--json", "events", "--follow", *options]) == 0
    told = [json.loads(line)["data"] for line in capsys.readouterr().out.splitlines()]
    assert told == numbers
