"""Author's tools: run the host's own code for a folder, as a process, since the command line does not import it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from rumi_setup.cli import codes
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.words import say
from rumi_setup.core import places

_WORK_S = 600.0


def ask(do: str, **request: Any) -> Any:
    """What the tool answers. Raises ``Failure`` where it refuses, with its code and hint."""
    from rumi_setup.cli.machine import guarded
    from rumi_setup.core import installer

    guarded(lambda: installer.ensure("runtime"))
    argv = [str(places.venv_python()), "-m", "core_runtime.author_tools"]
    try:
        done = subprocess.run(
            argv, cwd=places.ROOT, input=json.dumps({"do": do, **request}), capture_output=True, text=True,
            check=False, timeout=_WORK_S,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Failure(say("The tool gave no answer."), codes.FAILED, code="tool_failed") from error
    refused = answer.get("error")
    if refused:
        title = ": ".join(part for part in (refused["title"], refused["detail"]) if part)
        code = codes.for_status(int(refused["status"]))
        raise Failure(title, code, refused["hint"], code=refused["code"], fields=refused["fields"])
    return answer["data"]
