import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.ports import free_port
from rumi_setup.core import initializer, places, process, runner
from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Silent

# what `up` needs of a host: listen where it is told, answer health, end on TERM
HOST = """
import os, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
    def log_message(self, *a): pass
print("starting in", os.environ["RUMI_HOME"], os.environ["RUMI_ISOLATION"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["RUMI_API_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def home(tmp_path):
    initializer.initialise(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def application(tmp_path, monkeypatch):
    """A project whose app.py is given by the test, run by this Python."""
    root = tmp_path / "project"
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(places, "ROOT", root)
    monkeypatch.setattr(places, "venv_python", lambda: root / ".venv/bin/python")
    return root / "app.py"


def test_detached_it_starts_answers_and_is_stopped(home, application, capsys) -> None:
    application.write_text(HOST)
    api, web = free_port(), free_port()
    assert runner.up(home, detach=True, api_port=api, web_port=web, isolation="docker", progress=Silent()) == 0
    try:
        assert f"http://127.0.0.1:{api}" in capsys.readouterr().out
        found = runner.running(home)
        assert found is not None
        assert (found.api_port, runner.healthy(api)) == (api, True)
        assert f"starting in {home} docker" in places.log_file(home).read_text()
        assert runner.up(home, detach=True, api_port=api, web_port=web, progress=Silent()) == 0  # says it runs already
    finally:
        assert runner.down(home, Silent()) is True
    assert (runner.running(home), runner.healthy(api)) == (None, False)
    assert runner.down(home, Silent()) is False


def test_a_host_that_ends_at_once_is_reported_with_its_last_words(home, application) -> None:
    application.write_text("import sys; print('the port is cursed'); sys.exit(7)")
    with pytest.raises(SetupError, match="exit code 7") as caught:
        runner.up(home, detach=True, api_port=free_port(), web_port=free_port(), isolation="docker", progress=Silent())
    assert "the port is cursed" in str(caught.value)
    assert not places.pid_file(home).exists()


def test_a_taken_port_is_passed_over(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert runner._free_port(port, Silent(), ()) > port


def test_both_ports_are_different() -> None:
    port = free_port()
    assert runner._free_port(port, Silent(), (port,)) != port


def test_an_old_pid_file_names_nobody(home) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    stale = {"pid": gone.pid, "started": "1", "api_port": 1, "web_port": 2}
    places.pid_file(home).write_text(json.dumps(stale))
    assert runner.running(home) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_broken_pid_file_names_nobody(home, content) -> None:
    places.pid_file(home).write_text(content)
    assert runner.running(home) is None


def test_a_reused_pid_is_never_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as other:
        assert process.stop(other.pid, "another start time", grace_s=0.1) is True
        assert other.poll() is None
        other.stdin.close()


def test_a_process_that_ignores_term_is_killed() -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout.readline()
        started = process.start_time(stubborn.pid)
        assert started is not None
        assert process.stop(stubborn.pid, started, grace_s=0.2) is False
        assert not process.alive(stubborn.pid, started)


def test_only_200_counts_as_healthy() -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_args) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert runner.healthy(server.server_address[1]) is False
        thread.join()


def test_a_wrong_isolation_is_refused_before_anything_starts(home) -> None:
    with pytest.raises(SetupError, match="isolation must be one of"):
        runner.up(home, isolation="none", progress=Silent())


def test_the_api_port_never_moves(home) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"Port {port}.*is taken") as refused:
            runner.up(home, api_port=port, progress=Silent())
        assert f"--api-port {port + 1}" in str(refused.value)
