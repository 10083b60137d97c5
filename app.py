"""Entry: read the settings, build the host, run its startup flow, serve. No logic.

    python app.py [--home DIR] [--api-port N] [--web-port N] [--isolation auto|docker|embedded]
                  [--on-modified stop|keep]

Without the project's environment it starts the set-up as a process, which makes one and comes back here.
This file is parsed by any Python from 3.9 on; what it imports below needs the environment.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NEEDED = ("httptools", "jinja2", "msgpack", "msgspec", "starlette", "uvicorn", "yaml")
RETURNED = "RUMI_SET_UP"


def main(arguments: list[str]) -> int:
    """The process's exit code."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if sys.version_info < (3, 11) or missing:
        return _set_up_first(arguments, missing)
    gc.disable()  # while modules are made nothing becomes garbage; searching for it is a tenth of the time
    from console.app import Pages, build_console
    from core_runtime.api.run import run_host

    gc.freeze()
    gc.enable()
    pages = Pages()
    return run_host(
        arguments, os.environ, project_root=ROOT, web=lambda api: build_console(api, pages), web_refused=pages.refused
    )


def _set_up_first(arguments: list[str], missing: list[str]) -> int:
    if os.environ.get(RETURNED):
        print(
            "The environment lacks " + ", ".join(missing) + ". Next: python bootstrap.py --cli doctor", file=sys.stderr
        )
        return 1
    os.environ[RETURNED] = "1"
    command = [sys.executable, str(ROOT / "bootstrap.py"), "--cli", "run", *arguments]
    if sys.platform == "win32":
        import subprocess

        return subprocess.run(command, check=False).returncode
    os.execv(sys.executable, command)  # noqa: S606 - a list, never a shell


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
