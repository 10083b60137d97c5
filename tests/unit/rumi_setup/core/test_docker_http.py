"""Against a real server on a Unix socket that answers as an engine does."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from rumi_setup.core.docker_http import Engine, EngineError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_args) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        answers = {"/version": (200, b'{"Version": "20.10"}'), "/images/there:1/json": (200, b"{}")}
        self._answer(*answers.get(self.path, (404, b'{"message": "No such image"}')))

    def do_POST(self) -> None:
        got = b""
        while (size := int(self.rfile.readline(), 16)) > 0:
            got += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        if self.path == "/build?broken":
            self._answer(200, b'{"stream": "Step 1"}\n{"error": "pull access denied"}\n')
        else:
            self._answer(200, json.dumps({"status": f"sha of {len(got)}"}).encode() + b"\nnot json\n")


@pytest.fixture
def engine(tmp_path):
    path = str(tmp_path / "s")
    with socketserver.ThreadingUnixStreamServer(path, _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Engine(f"unix://{path}")
        server.shutdown()
        thread.join()


def test_asks_for_version_and_images(engine) -> None:
    assert engine.version(timeout_s=5) == "20.10"
    assert (engine.has_image("there:1"), engine.has_image("gone:1")) == (True, False)


def test_feeds_an_archive_in_chunks(engine) -> None:
    assert engine.feed("/images/create", iter([b"abc", b"defg"]), timeout_s=5) == ["sha of 7"]


def test_an_error_inside_a_good_answer_is_an_error(engine) -> None:
    with pytest.raises(EngineError, match="pull access denied"):
        engine.feed("/build?broken", iter([b"x"]), timeout_s=5)


def test_a_refusal_carries_the_engines_words(engine) -> None:
    with pytest.raises(EngineError, match="404 No such image"):
        engine.ask("GET", "/nothing", timeout_s=5)


def test_no_engine_is_a_sentence_not_a_traceback(tmp_path) -> None:
    with pytest.raises(EngineError, match="does not answer"):
        Engine(f"unix://{tmp_path}/none").version(timeout_s=1)


@pytest.mark.parametrize("address", ["npipe:////./pipe/docker_engine", "ssh://host", "nonsense"])
def test_an_address_it_can_not_speak_to_is_refused(address) -> None:
    with pytest.raises(EngineError, match="can not be asked"):
        Engine(address).version(timeout_s=1)
