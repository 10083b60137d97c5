"""Ports for hosts that tests start: nobody else of this machine gets one between the question and the start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from bench.ports import BLOCK, FIRST, LAST, free_port

ROOT = Path(__file__).resolve().parents[2]
LOWEST_OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_connection_of_this_machine_gets_a_port_that_was_given() -> None:
    lowest = int(LOWEST_OF_CONNECTIONS.read_text().split()[0]) if LOWEST_OF_CONNECTIONS.exists() else 49152
    assert lowest >= LAST
    assert all(FIRST < free_port() < LAST for _ in range(BLOCK))


def test_two_processes_never_get_the_same() -> None:
    own = {str(free_port()) for _ in range(200)}
    ask = "from bench.ports import free_port; print(*(free_port() for _ in range(200))); input()"
    asked = [
        subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        given = [set(one.stdout.readline().split()) for one in asked if one.stdout]
    finally:
        for one in asked:
            one.communicate("\n")
    assert all(given)
    assert len(own.union(*given)) == len(own) + sum(map(len, given))


def test_a_child_of_a_fork_takes_a_block_of_its_own() -> None:
    before = free_port()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(into, str(free_port()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert (int(os.read(out, 16)) - FIRST) // BLOCK != (before - FIRST) // BLOCK
    os.close(out)
    os.close(into)


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    given = [free_port() for _ in range(BLOCK)]
    taken = given[-1]
    with socket.create_server(("::1", taken), family=socket.AF_INET6):
        assert taken not in {free_port() for _ in range(BLOCK)}
    assert taken in {free_port() for _ in range(BLOCK)}
