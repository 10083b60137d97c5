"""Author's tools: run the host's own code for a folder, as a process, since the command line does not import it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import Any, Self

from rumi_setup.cli import codes
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.words import say
from rumi_setup.core import places

_WORK_S = 600.0


def ask(do: str, **request: Any) -> Any:
    """What the tool answers. Raises ``Failure`` where it refuses, with its code and hint."""
    with Tool() as tool:
        return tool.ask(do, **request)


class Tool:
    """The tool, started ahead: it has loaded its code when it is asked, and answers once. A context manager."""

    def __init__(self) -> None:
        from rumi_setup.cli.machine import guarded
        from rumi_setup.core import installer

        guarded(lambda: installer.ensure("runtime"))
        argv = [str(places.venv_python()), "-m", "core_runtime.author_tools"]
        self._process = subprocess.Popen(
            argv, cwd=places.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, asked or not. Safe to repeat."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # nobody reads what it was still told
                    pipe.close()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def ask(self, do: str, **request: Any) -> Any:
        """What it answers. Raises ``Failure`` where it refuses, with its code and hint."""
        try:
            told, _ = self._process.communicate(json.dumps({"do": do, **request}), timeout=_WORK_S)
            answer = json.loads(told)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise Failure(say("The tool gave no answer."), codes.FAILED, code="tool_failed") from error
        refused = answer.get("error")
        if refused:
            title = ": ".join(part for part in (refused["title"], refused["detail"]) if part)
            code = codes.for_status(int(refused["status"]))
            raise Failure(title, code, refused["hint"], code=refused["code"], fields=refused["fields"])
        return answer["data"]
