"""What the operator chose for this run of the host: environment and command line → one frozen ``Settings``.

Invariants:
  * Pure: the environment, the arguments, the working folder and the user id come in as values; nothing is read or made.
  * Arguments win over the environment, the environment over the defaults. An unusable value is an error that names it.
  * The run folder's name depends on the home folder only, so that the command-line tool finds the same socket.

Not here: making folders, binding ports (``drivers.loopback``, ``drivers.run_folder``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from backend_core.errors import RequestError, quote
from core_runtime.rules.docker_transport import CHOICES
from core_runtime.rules.flow.values import ValueProblem, parse_duration_s
from core_runtime.rules.otlp import TraceConfig, config_of

DEFAULT_API_PORT = 8765
DEFAULT_WEB_PORT = 5000
ISOLATIONS = ("auto", "docker", "embedded")
_RUNTIME = re.compile(r"[A-Za-z0-9._-]{0,64}", re.ASCII)
MIN_IDLE_S = 1.0
ON_MODIFIED = ("stop", "keep")

_OPTIONS = {
    "--home": "RUMI_HOME",
    "--api-port": "RUMI_API_PORT",
    "--web-port": "RUMI_WEB_PORT",
    "--isolation": "RUMI_ISOLATION",
    "--docker-transport": "RUMI_DOCKER_TRANSPORT",
    "--docker-runtime": "RUMI_DOCKER_RUNTIME",
    "--idle-stop": "RUMI_IDLE_STOP",
    "--on-modified": "RUMI_ON_MODIFIED",
}


class Settings(Struct, frozen=True):
    """One run's choices. ``home`` holds ``ecosystem/`` and ``user_data/``; all paths are absolute."""

    project_root: Path
    home: Path
    run_dir: Path
    api_port: int = DEFAULT_API_PORT
    web_port: int = DEFAULT_WEB_PORT
    isolation: str = "auto"
    docker_transport: str = "auto"
    docker_runtime: str = ""
    """Name of an engine runtime such as ``runsc``, which makes ``auto`` mean ``docker``; empty = the engine's own."""
    idle_stop_s: float = 0.0
    """Packs that nobody used for so long are stopped until they are called; 0: never."""
    on_modified: str = ""
    """``stop`` or ``keep``; empty: what the startup flow says."""
    traces: TraceConfig | str | None = None
    """Where traces go; the reason when what was asked for can't be; None: nowhere."""

    @property
    def user_data(self) -> Path:
        """Everything that the operator owns."""
        return self.home / "user_data"

    @property
    def permissions_dir(self) -> Path:
        """Grants, keys and the API token."""
        return self.user_data / "permissions"

    @property
    def token_file(self) -> Path:
        """The bearer token of the management API, mode 0600."""
        return self.permissions_dir / ".api_token"

    @property
    def redirect_dir(self) -> Path:
        """Files that open the console, mode 0700."""
        return self.user_data / "run"

    @property
    def packs_dir(self) -> Path:
        """Where Packs are put."""
        return self.home / "ecosystem" / "packs"

    @property
    def socket_path(self) -> Path:
        """The command-line tool's way in."""
        return self.run_dir / "api.sock"

    @property
    def bus_dir(self) -> Path:
        """Sibling of the run folder for the sandboxes' sockets: they must reach those, and never the one above."""
        return self.run_dir.with_name(self.run_dir.name + "-bus")


def settings_from(
    environment: Mapping[str, str], arguments: Sequence[str], *, project_root: Path, working_dir: Path, uid: int
) -> Settings:
    """Raises ``RequestError`` with the option's name when a value can't be used."""
    chosen = {name: environment[name] for name in _OPTIONS.values() if environment.get(name)}
    chosen |= _parse(arguments)
    home = working_dir / chosen["RUMI_HOME"] if "RUMI_HOME" in chosen else project_root
    home = _normal(home)
    api_port = _port(chosen.get("RUMI_API_PORT"), "--api-port", DEFAULT_API_PORT)
    web_port = _port(chosen.get("RUMI_WEB_PORT"), "--web-port", DEFAULT_WEB_PORT)
    if api_port == web_port:
        raise RequestError(
            "The two ports are the same",
            code="ports_clash",
            detail=f"--api-port and --web-port are both {api_port}; they must differ.",
            hint=f"Start again with --web-port {_neighbour(api_port)}.",
        )
    isolation = chosen.get("RUMI_ISOLATION", "auto").lower()
    if isolation not in ISOLATIONS:
        raise RequestError(
            "Unknown isolation",
            code="isolation_unknown",
            detail=f"expected one of {', '.join(ISOLATIONS)}; got {quote(isolation)}",
            hint="Leave RUMI_ISOLATION unset to let the host choose.",
        )
    transport = chosen.get("RUMI_DOCKER_TRANSPORT", "auto").lower()
    if transport not in CHOICES:
        raise RequestError(
            "Unknown Docker transport",
            code="transport_unknown",
            detail=f"expected one of {', '.join(CHOICES)}; got {quote(transport)}",
            hint="Leave RUMI_DOCKER_TRANSPORT unset to let the host choose.",
        )
    runtime = chosen.get("RUMI_DOCKER_RUNTIME", "")
    if not _RUNTIME.fullmatch(runtime):
        raise RequestError(
            "Not a runtime's name",
            code="runtime_invalid",
            detail=f"expected a name such as runsc; got {quote(runtime)}",
            hint="Leave RUMI_DOCKER_RUNTIME unset to use the engine's default.",
        )
    if runtime and isolation == "auto":
        isolation = "docker"  # who names an engine's runtime does not want another driver in its place
    on_modified = chosen.get("RUMI_ON_MODIFIED", "").lower()
    if on_modified not in {"", *ON_MODIFIED}:
        raise RequestError(
            "Unknown choice for modified Packs",
            code="on_modified_unknown",
            detail=f"expected one of {', '.join(ON_MODIFIED)}; got {quote(on_modified)}",
            hint="Leave RUMI_ON_MODIFIED unset to have a Pack stopped when its files are changed.",
        )
    return Settings(
        project_root=project_root,
        home=home,
        run_dir=run_dir_for(home, environment.get("XDG_RUNTIME_DIR", ""), uid),
        api_port=api_port,
        web_port=web_port,
        isolation=isolation,
        docker_transport=transport,
        docker_runtime=runtime,
        idle_stop_s=_idle_stop_s(chosen.get("RUMI_IDLE_STOP")),
        on_modified=on_modified,
        traces=config_of(environment),
    )


def run_dir_for(home: Path, runtime_dir: str, uid: int) -> Path:
    """The short private folder of one home. Short, because a Unix socket's path has 107 bytes at most."""
    name = hashlib.sha256(str(home).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    if PurePosixPath(runtime_dir).is_absolute():
        return Path(runtime_dir) / f"rumi-{name}"
    return Path("/run") / f"rumi-{name}" if uid == 0 else Path("/tmp") / f"rumi-{uid}-{name}"  # noqa: S108 - checked when made


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option not in _OPTIONS:
            raise RequestError(
                "Unknown argument",
                code="argument_unknown",
                detail=f"expected {', '.join(_OPTIONS)}; got {quote(option)}",
                hint="python app.py [--home DIR] [--api-port N] [--web-port N] [--isolation auto|docker|embedded] "
                "[--docker-transport auto|socket|stdio] [--docker-runtime NAME] [--idle-stop 10m] "
                "[--on-modified stop|keep]",
            )
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value:
            raise RequestError(
                "An argument lacks its value", code="argument_incomplete", detail=f"{option} needs a value",
                hint=f"Write {option} VALUE.",
            )  # fmt: skip
        values[_OPTIONS[option]] = value
    return values


def _idle_stop_s(text: str | None) -> float:
    """Seconds; 0 where nothing was chosen. Below a second a Pack would do nothing but start and stop."""
    if text is None:
        return 0.0
    try:
        found = parse_duration_s(text)
    except ValueProblem:
        found = 0.0
    if found >= MIN_IDLE_S:
        return found
    raise RequestError(
        "Not a time after which unused Packs are stopped",
        code="idle_stop_invalid",
        detail=f"--idle-stop must be a duration of a second or more, such as 10m; got {quote(text)}",
        hint="Leave it out to keep every Pack running.",
    )


def _port(text: str | None, option: str, default: int) -> int:
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise RequestError(
        "Not a port number",
        code="port_invalid",
        detail=f"{option} must be a number from 1 to 65535; got {quote(text)}",
        hint=f"Leave it out to use {default}.",
    )


def _neighbour(port: int) -> int:
    return port + 1 if port < 65535 else port - 1


def _normal(path: Path) -> Path:
    """Fold ``.`` and ``..`` without touching the disk, so that one home always gives one run folder."""
    parts: list[str] = []
    for part in path.parts[1:]:
        if part == "..":
            del parts[-1:]
        else:
            parts.append(part)
    return Path(path.anchor, *parts)
