"""A tiny stand-in for the agent: connects to the bus socket and obeys Python source sent line by line. Tests only.

It runs *inside* sandboxes, as `container_agent`, so that the isolation suites can attack the walls without the bus.
Where `sandboxes.py` puts it, the agent's own `apply_landlock` stands below: the walls are those of a real start.
One request = one line of JSON text holding source; the answer = one line of JSON: `{"ok": value}` or `{"error": text}`.
"""

# ruff: noqa: PTH110, PTH112, PTH123, PTH208, BLE001 - it starts fast, so no pathlib; what code raises is its answer

import json
import os
import socket
import sys


def probe(landlock):
    """The same fields as HELLO's probe, as far as the isolation rules read them."""
    status = {}
    with open("/proc/self/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            status[name] = value.strip()
    writable = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            point = line.split(" ")[4]
            if os.access(point, os.W_OK) and os.path.isdir(point):
                writable.append(point)
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "cap_eff": status["CapEff"],
        "cap_bnd": status["CapBnd"],
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": int(status.get("Seccomp", 0)),
        "pid_count": len([name for name in os.listdir("/proc") if name.isdigit()]),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "writable": writable,
        "env_names": sorted(os.environ),
        "canaries": [path for path in ("/root", "/home", "/var/run/docker.sock", "/etc/shadow") if readable(path)],
        "landlock": landlock,
        "python": sys.version.split()[0],
        "kernel": " ".join(os.uname()[2:4]),
    }


def readable(path):
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path) and os.access(path, os.R_OK)
    except OSError:
        return False


class Attached:
    """Descriptors 0 and 1 as one stream, moved away so that no `print` gets into it."""

    def __init__(self, reading, writing):
        self.reading, self.writing = reading, writing

    def __iter__(self):
        return iter(self.reading)

    def write(self, text):
        self.writing.write(text)

    def flush(self):
        self.writing.flush()


def attached():
    reading, writing = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return Attached(os.fdopen(reading, encoding="utf-8"), os.fdopen(writing, "w", encoding="utf-8"))


def main():
    bus: object = None
    if "--stdio" in sys.argv:
        bus, stream = None, attached()
    else:
        bus = socket.socket(socket.AF_UNIX)
        bus.connect(sys.argv[sys.argv.index("--socket") + 1])
        stream = bus.makefile("rw", encoding="utf-8")
    stream.write(json.dumps({"ok": probe(globals().get("apply_landlock", lambda: 0)())}) + "\n")
    stream.flush()
    space: dict[str, object] = {"bus": bus}
    for line in stream:
        space.pop("answer", None)
        try:
            exec(json.loads(line), space)
            reply = {"ok": space.get("answer")}
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        stream.write(json.dumps(reply) + "\n")
        stream.flush()
