"""The way to the host: HTTP over its Unix socket, in a private folder, to a process that is proven to be ours.

Invariants:
  * Before a byte is sent, the folder belongs to us (or root) and to nobody else, and the kernel says that the listening
    process runs as us or as root. Somebody else's socket at that place gets nothing.
  * Answers are bounded. Whatever is not the envelope is an error of the host, never shown as data.

Not here: what is asked (commands), how it is shown (`show`).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rumi_setup.cli import codes
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.words import say
from rumi_setup.core import places

TIMEOUT_S = 60.0
STARTING_S = 20.0
_POLL_S = 0.1
ANSWER_LIMIT_BYTES = 64 << 20
_LINE_LIMIT_BYTES = 16 << 20
_HEADERS = {"Host": "rumi", "User-Agent": "rumi-cli", "Accept": "application/json"}


def run_folders(home: Path, environment: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where the host of this home may have its socket; the host decides by its own environment, which may differ."""
    name = hashlib.sha256(os.path.normpath(home).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    places_tried = [Path(runtime) / f"rumi-{name}"] if runtime.startswith("/") else []
    user_runtime = Path("/run/user") / str(uid) / f"rumi-{name}"
    fallback = Path("/run") / f"rumi-{name}" if uid == 0 else Path("/tmp") / f"rumi-{uid}-{name}"  # noqa: S108 - checked below
    for folder in (user_runtime, fallback):
        if folder not in places_tried:
            places_tried.append(folder)
    return tuple(places_tried)


def find_socket(home: Path) -> Path:
    """The host's socket. Raises `Failure` when there is none or its folder is not private."""
    uid = os.getuid()
    for folder in run_folders(home, os.environ, uid):
        path = folder / "api.sock"
        if os.path.lexists(path):
            _check_folder(folder, uid)
            return path
    raise host_down()


def host_down() -> Failure:
    return Failure(say("The host does not run."), codes.HOST_DOWN, say("Start it: ./rumi up"), code="host_down")


def _check_folder(folder: Path, uid: int) -> None:
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid in {uid, 0} and not status.st_mode & 0o077:
        return
    raise Failure(
        say("{path} is not a private folder of yours; nothing was sent.", path=folder), codes.DENIED,
        say("Look at who made it: ls -ld {path}", path=folder), code="run_folder_not_private",
    )  # fmt: skip


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket whose other end is us or root."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("rumi", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect(str(self._path))
            check_peer(made, os.getuid())
        except BaseException:
            made.close()
            raise
        self.sock = made


def check_peer(sock: socket.socket, uid: int) -> None:
    """Raise `Failure` unless the kernel says that the other end is `uid` or root."""
    found = _peer_uid(sock)
    if found not in {uid, 0}:
        raise Failure(
            say("The socket is served by user {found}, not by you; nothing was sent.", found=found), codes.DENIED,
            say("Run the command as the user that runs the host."), code="foreign_host",
        )  # fmt: skip


def _peer_uid(sock: socket.socket) -> int:
    if sys.platform == "darwin":
        # <sys/un.h> LOCAL_PEERCRED, <sys/ucred.h> struct xucred: version, uid
        return int(struct.unpack("=II", sock.getsockopt(0, 1, 76)[:8])[1])
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _connection(timeout_s: float) -> tuple[http.client.HTTPConnection, dict[str, str]]:
    """A connection and the headers that identify us on it."""
    home = places.home()
    if hasattr(socket, "AF_UNIX") and sys.platform != "win32":
        return UnixConnection(find_socket(home), timeout_s), dict(_HEADERS)
    from rumi_setup.core import runner  # systems without Unix sockets: loopback and the token

    found = runner.running(home)
    if found is None:
        raise host_down()
    headers = {**_HEADERS, "Authorization": f"Bearer {read_token(home)}", "Host": f"127.0.0.1:{found.api_port}"}
    return http.client.HTTPConnection("127.0.0.1", found.api_port, timeout=timeout_s), headers


def token_file(home: Path) -> Path:
    return home / "user_data" / "permissions" / ".api_token"


def read_token(home: Path) -> str:
    """The management API's bearer token. Raises `Failure` when there is none, or others may read it."""
    path = token_file(home)
    try:
        status = path.lstat()
        if sys.platform != "win32" and (not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077):
            raise Failure(
                say("{path} may be read by others; it is not a secret any more.", path=path), codes.DENIED,
                say("Remove it and start the host again: it makes a new one."), code="token_exposed",
            )  # fmt: skip
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Failure(
            say("There is no token yet: {path}", path=path), codes.NOT_FOUND, say("Start the host once: ./rumi up"),
            code="token_missing",
        ) from None  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            say("{path} can't be read: {why}", path=path, why=error), codes.DENIED, code="token_unreadable"
        ) from error


def ask(method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The `data` of the answer. Raises `Failure` with the exit code for the answer's status.

    A host that is still starting refuses before it does anything; it is asked again until it has started.
    """
    deadline = time.monotonic() + STARTING_S
    while True:
        try:
            return _ask_once(method, path, body, timeout_s)
        except Failure as found:
            if found.code != "starting" or time.monotonic() > deadline or not _is_starting():
                raise
        time.sleep(_POLL_S)


def _is_starting() -> bool:
    health = _ask_once("GET", "/api/health", None, TIMEOUT_S)
    return isinstance(health, dict) and health.get("phase") == "starting"


def _ask_once(method: str, path: str, body: Any, timeout_s: float) -> Any:
    connection, headers = _connection(timeout_s)
    try:
        answer = _send(connection, method, path, body, headers)
        return _data(answer.status, answer.read(ANSWER_LIMIT_BYTES + 1))
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error
    finally:
        connection.close()


class Feed:
    """A request's body as it comes: JSON values, one a line, in pieces of any length."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def send(self, connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> None:
        """Begin the request; a thread sends the rest, since the answer may begin before the last piece has come."""
        connection.putrequest(method, path, skip_host=True)
        for name, value in {**headers, "Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        threading.Thread(target=self._rest, args=(connection,), daemon=True).start()

    def _rest(self, connection: http.client.HTTPConnection) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # it answered already, or is gone: that tells
            for piece in filter(None, self._pieces):
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")


def feed(path: str, body: Feed, *, timeout_s: float = TIMEOUT_S) -> Any:
    """As ``ask``, for a body that can be sent once only: a host that is still starting is not asked again."""
    return _ask_once("POST", path, body, timeout_s)


def stream(path: str, body: Any, *, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[str, Any]]:
    """`(event, data)` of a server-sent stream; an answer without a stream is one event `result`."""
    connection, headers = _connection(timeout_s)
    try:
        answer = _send(connection, "POST", path, body, {**headers, "Accept": "text/event-stream"})
        if "text/event-stream" not in (answer.getheader("content-type") or ""):
            yield "result", _data(answer.status, answer.read(ANSWER_LIMIT_BYTES + 1)).get("result")
            return
        yield from _events(answer)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error
    finally:
        connection.close()


def watch(path: str, *, last_id: str, timeout_s: float) -> Iterator[tuple[str, Any]]:
    """`(event, data)` of a stream that goes on; `timeout_s` of silence end it."""
    connection, headers = _connection(timeout_s)
    after = {"Last-Event-ID": last_id} if last_id.isprintable() and last_id.isascii() and last_id else {}
    try:
        answer = _send(connection, "GET", path, None, {**headers, "Accept": "text/event-stream", **after})
        if "text/event-stream" not in (answer.getheader("content-type") or ""):
            _data(answer.status, answer.read(ANSWER_LIMIT_BYTES + 1))
            raise _parsed_wrong()
        yield from _events(answer)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error
    finally:
        connection.close()


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str]
) -> http.client.HTTPResponse:
    content = None
    if isinstance(body, Feed):
        body.send(connection, method, path, headers)
        return connection.getresponse()
    if body is not None:
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        headers = {**headers, "Content-Type": "application/json"}
    connection.request(method, path, content, headers)
    return connection.getresponse()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name, lines, size = "message", list[str](), 0
    while raw := answer.readline(_LINE_LIMIT_BYTES):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        size += len(raw)
        if size > _LINE_LIMIT_BYTES:
            raise Failure(say("One item of the stream is too large."), codes.FAILED, code="item_too_large")
        if line:
            label, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if label == "event":
                name = value
            elif label == "data":
                lines.append(value)
            continue
        if lines:
            data = _parsed("\n".join(lines))
            if name == "error":
                raise _failure(502, data)
            yield name, data
        name, lines, size = "message", [], 0


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(
            say("The host answered with something that is no JSON."), codes.FAILED,
            say("Look at what went wrong: ./rumi doctor"), code="answer_invalid",
        ) from error  # fmt: skip


def _data(status: int, content: bytes) -> Any:
    if len(content) > ANSWER_LIMIT_BYTES:
        raise Failure(say("The answer is too large."), codes.FAILED, code="answer_too_large")
    envelope = _parsed(content)
    if not isinstance(envelope, dict) or "success" not in envelope:
        raise _parsed_wrong()
    if status >= 400 or envelope["success"] is not True:
        raise _failure(status, envelope)
    return envelope.get("data")


def _parsed_wrong() -> Failure:
    return Failure(
        say("The host answered in a form that this command does not know."),
        codes.FAILED,
        say("The host may be of another version: ./rumi down, then ./rumi up"),
        code="answer_invalid",
    )


def _failure(status: int, envelope: Any) -> Failure:
    found = envelope if isinstance(envelope, dict) else {}
    fields = found.get("fields")
    return Failure(
        str(found.get("error") or say("The host refused, without a reason ({status}).", status=status)),
        codes.for_status(status) or codes.FAILED,
        hint=str(found.get("hint") or ""),
        code=str(found.get("code") or ""),
        fields=fields if isinstance(fields, dict) else {},
    )


def _broken(error: Exception) -> Failure:
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return host_down()
    if isinstance(error, TimeoutError):
        return Failure(say("The host did not answer in time."), codes.HOST_DOWN, say("./rumi status"), code="timeout")
    return Failure(
        say("The connection to the host broke: {why}", why=error), codes.HOST_DOWN, say("./rumi status"),
        code="connection_lost",
    )  # fmt: skip
