"""Downloads the wheels of a lock file for another Python: pip as a downloader and nothing else.

Started by the host as a process of its own (`python -I -S`), with the lock that the host wrote from what it parsed; no
word of a Pack reaches pip's command line. Which registry is asked is the operator's pip configuration, or uv's default
index where that is the one that is set. Answers with one line of JSON on stdout, last.

Invariant: no file of a package is run: `--only-binary :all:` and `--no-deps` refuse everything that would be built, and
options of the environment that could take that back are removed. The host checks every hash again afterwards.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import pip_source
from rumi_setup.core.interpreter import Interpreter
from rumi_setup.core.process import run
from rumi_setup.core.progress import Silent

if TYPE_CHECKING:
    from rumi_setup.core.problem import Attempt

_DOWNLOAD_S = 240
_WHEEL_LIMIT_BYTES = 512 << 20
_KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "NETRC", "XDG_CONFIG_HOME",
         "XDG_CONFIG_DIRS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # fmt: skip
_KEPT_PIP = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY",
             "CONFIG_FILE", "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "KEYRING_PROVIDER")  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What to download. `python` as `3.11`, `abi` as `cp311`."""

    lock: Path
    target: Path
    python: str
    abi: str
    platforms: tuple[str, ...]


def download(order: Order) -> tuple[bool, list[str]]:
    """Whether everything came, and what each way said that did not do it."""
    attempts: list[Attempt] = []
    said: list[str] = []
    arguments = [
        "download", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--no-input",
        "--implementation", "cp", "--python-version", order.python, "--abi", order.abi,
        *(word for platform in order.platforms for word in ("--platform", platform)),
        "-d", str(order.target), "-r", str(order.lock),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="rumi-pip-") as scratch:
        # below any virtual environment: pip must not take this one's packages for its own
        base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        python = Interpreter(Path(base), sys.version_info[:3])
        for pip in pip_source.Pips(python, Path(scratch), Silent(), attempts):
            got = run([*pip.argv, *arguments], timeout_s=_DOWNLOAD_S, env=_environment(), cwd=Path(scratch))
            if got.ok:
                return True, []
            said.append(f"{pip.origin}: {got.text.strip()}")
            if got.code is not None and _is_an_answer(got.text):
                break  # another pip would be told the same
    return False, said or [f"{attempt.way}: {attempt.outcome}" for attempt in attempts]


def _is_an_answer(text: str) -> bool:
    """Whether the registry answered, so that asking by another pip is of no use."""
    return "No matching distribution" in text or "DO NOT MATCH THE HASHES" in text


def _environment() -> dict[str, str]:
    """The operator's way to a registry, and nothing else of the environment that this runs in."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.lower() in proxies}
    kept.update({f"PIP_{k}": os.environ[f"PIP_{k}"] for k in _KEPT_PIP if os.environ.get(f"PIP_{k}")})
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    if index and "PIP_INDEX_URL" not in kept:
        kept["PIP_INDEX_URL"] = index
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def main(arguments: list[str]) -> int:
    """`LOCK TARGET PYTHON ABI PLATFORM…`; exit code 0 when everything came."""
    lock, target, python, abi, *platforms = arguments
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (_WHEEL_LIMIT_BYTES, _WHEEL_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    done, said = download(Order(Path(lock), Path(target), python, abi, tuple(platforms)))
    print(json.dumps({"done": done, "said": [text[-2000:] for text in said[-6:]]}))
    return 0 if done else 1
