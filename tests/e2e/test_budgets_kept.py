"""Budgets of connections when the host is killed: a Pack that brings its host down gains nothing by it."""

from __future__ import annotations

import json
import socket

from tests.support.running_host import RunningHost, one_component_pack

SETUP = """
import os, socket
def run(context):
    def connect(args, ctx):
        host, _, port = os.environ["HTTP_PROXY"].rpartition("/")[2].rpartition(":")
        codes = []
        for _ in range(args["times"]):
            with socket.create_connection((host, int(port)), 10) as sock:
                sock.sendall(b"CONNECT %s HTTP/1.1\\r\\n\\r\\n" % args["to"].encode())
                codes.append(int(sock.recv(4096).split()[1]))
        return codes
    context["interface_registry"].register("out.connect", connect)
"""
MOST = 20
STEP = 1  # a sixteenth of it


def test_a_pack_whose_host_is_killed_has_spent_what_it_spent(host: RunningHost) -> None:
    (host.home / "user_data/egress.json").write_text(json.dumps({"budgets": {"connections_per_minute": MOST}}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        to = f"127.0.0.1:{server.getsockname()[1]}"
        files = one_component_pack("out", SETUP, provides=("out.connect",))
        wanted = {"type": "network", "addresses": [to], "reason": "a service of this machine"}
        files["backend/permissions.json"] = json.dumps({"pack_id": "out", "permissions": [wanted]})
        host.put_pack("out", files)
        host.approve("out")
        assert host.result("out.connect", {"times": 12, "to": to}) == [200] * 12
        host.kill()
        host.start()
        host.until(lambda: host.call("out.connect", {"times": 0, "to": to})[0] == 200, 30, "the Pack to serve again")
        codes = host.result("out.connect", {"times": 12, "to": to})
        assert MOST - 12 - STEP <= codes.count(200) <= MOST - 12, codes
        assert set(codes) == {200, 429}
        # and not by an orderly restart either
        host.stop()
        host.start()
        host.until(lambda: host.call("out.connect", {"times": 0, "to": to})[0] == 200, 30, "the Pack to serve again")
        assert host.result("out.connect", {"times": 3, "to": to}) == [429] * 3
