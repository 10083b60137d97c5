"""Where things are: the project, its environment, the operator's data. No effects."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(os.path.realpath(__file__)).parents[2]
OLDEST_HOST_PYTHON = (3, 11)
LOCK_NAMES = ("runtime", "dev", "bench")
EXTRA = "extra"
"""What the host does without where a machine has no build of it."""


def home(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds `ecosystem/` and `user_data/`: what is given, else RUMI_HOME, else the project."""
    chosen = given if given is not None else os.environ.get("RUMI_HOME")
    return Path(chosen).expanduser().absolute() if chosen else ROOT


def lock_file(lock: str, root: Path = ROOT) -> Path:
    """The compiled lock of that name; raises ValueError for a name that no lock has."""
    if lock not in (*LOCK_NAMES, EXTRA, "uv"):
        raise ValueError(f"no lock is called {lock!r}; there are {', '.join(LOCK_NAMES)}")
    return root / "locks" / f"{lock}.lock"


def venv(root: Path = ROOT) -> Path:
    return root / ".venv"


def stamp(root: Path = ROOT) -> Path:
    """A copy of the lock that the environment was made from, written last: its presence means complete."""
    return venv(root) / "rumi.lock"


def extra_stamp(root: Path = ROOT) -> Path:
    """A copy of the extra lock whose packages were tried, whether or not this machine has a build of them."""
    return venv(root) / "rumi.extra"


def venv_python(root: Path = ROOT) -> Path:
    if sys.platform == "win32":
        return venv(root) / "Scripts" / "python.exe"
    return venv(root) / "bin" / "python"


def tools(root: Path = ROOT) -> Path:
    return root / ".tools"


def pid_file(home_dir: Path) -> Path:
    return home_dir / "user_data" / "host.pid.json"


def log_file(home_dir: Path) -> Path:
    return home_dir / "user_data" / "logs" / "host.log"
