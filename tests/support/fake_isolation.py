"""In-memory driver and bus for the orchestrator's tests. The fake driver runs nothing; tests end its sandboxes by hand."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from backend_core.errors import HostError
from core_runtime.drivers.runtime_folder import PythonAbi
from core_runtime.ports import DriverStatus, Exit
from core_runtime.rules.sandbox import DriverKind, Isolation, Level

ABI = PythonAbi(sys.executable, (3, 11), "cpython-311", ".so")


class FakeSandbox:
    def __init__(self, driver, spec):
        self.id = f"fake-{spec.pack_id}-{spec.generation}"
        self.pid = 0
        self.counted = {}
        self.spec, self.driver = spec, driver
        self.ended = asyncio.get_running_loop().create_future()

    def end(self, code=1, cause="exited"):
        if not self.ended.done():
            self.ended.set_result(Exit(code, cause, "", self.counted))

    def connection(self):
        return None

    async def measure(self, probe):
        return Isolation(self.driver.kind, self.driver.level)

    async def wait(self):
        return await asyncio.shield(self.ended)

    async def stop(self, grace_s):
        self.end(0, "killed")
        return await self.wait()

    async def usage(self):
        return {"memory_bytes": 1.0, **self.counted}

    async def output_tail(self):
        return "last words\x1b"


class FakeDriver:
    attaches = False

    def __init__(self, kind=DriverKind.DOCKER, *, level=Level.STANDARD, available=True):
        self.kind, self.level, self.available = kind, level, available
        self.started, self.concurrent, self.peak = [], 0, 0
        self.fail, self.closed, self.dead_on_arrival = None, False, False

    async def probe(self):
        return DriverStatus(
            self.kind, self.available, self.level, "1", "" if self.available else "it is switched off", "switch it on"
        )

    async def python(self):
        return ABI

    async def start(self, spec):
        if self.fail:
            raise HostError("engine", code=self.fail)
        self.concurrent += 1
        self.peak = max(self.peak, self.concurrent)
        await asyncio.sleep(0)
        sandbox = FakeSandbox(self, spec)
        self.started.append(sandbox)
        if self.dead_on_arrival:
            sandbox.end(9)
        self.concurrent -= 1
        return sandbox

    def render(self, spec):
        return {"options": spec.pack_dir}

    async def remove_leftovers(self, installation_id):
        return []

    async def close(self):
        self.closed = True


class FakeSession:
    def __init__(self):
        self.hello: dict[str, Any] = {"probe": {}}
        self.closed = asyncio.get_running_loop().create_future()
        self.welcomed = self.answers = True
        self.welcomed = self.took_over = False
        self.stuck = 0

    async def welcome(self, settings=None):
        self.welcomed = True

    async def ping(self, timeout_s=5.0):
        if not self.answers:
            raise TimeoutError
        return {}

    def overdue(self, grace_s):
        return self.stuck

    async def shutdown(self, grace_s):
        self.abort("shut down")

    def take_over(self):
        self.took_over = True

    def abort(self, reason):
        if not self.closed.done():
            self.closed.set_result(reason)


class FakeEndpoint:
    def __init__(self, bus, path):
        self.bus, self.path = bus, path

    async def connected(self, timeout_s, conn=None):
        if self.bus.silent:
            await asyncio.get_running_loop().create_future()
        session = FakeSession()
        self.bus.sessions.append(session)
        return session

    async def close(self):
        self.bus.open_paths.discard(self.path)


class FakeBus:
    def __init__(self):
        self.sessions, self.open_paths, self.silent = [], set(), False

    async def open(self, pack_id, generation, rights, *, socket_path, uid, gid, beside=False, terms=None):
        await asyncio.to_thread(Path(socket_path).touch)
        self.open_paths.add(socket_path)
        return FakeEndpoint(self, socket_path)
