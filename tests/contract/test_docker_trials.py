"""In which order an engine is tried: what can't work there is not the first thing that it is asked for."""

import asyncio
import json

import pytest

from core_runtime.drivers.docker_engine import DockerDriver

INFO = {
    "OSType": "linux", "OperatingSystem": "Debian GNU/Linux 12", "Name": "machine", "KernelVersion": "6.1.0", "MemoryLimit": True,
    "PidsLimit": True, "SecurityOptions": ["name=seccomp,profile=builtin"], "ServerVersion": "20.10.24", "DefaultRuntime": "runc",
    "Runtimes": {"runc": {}, "runsc": {}, "kata-runtime": {}, "crun": {}},
}  # fmt: skip
IMAGE = {"Id": "sha256:" + "0" * 64}


class FakeEngine:
    """Answers who it is and has the base image; makes no image and no container. `tried` says by which way."""

    def __init__(self, **info):
        self.info = INFO | info
        self.tried = []

    async def serve(self, reader, writer):
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ", 2)
                size = 0
                chunked = False
                while (header := (await reader.readline()).decode().strip().lower()) != "":
                    if header.startswith("content-length:"):
                        size = int(header.partition(":")[2])
                    chunked = chunked or header == "transfer-encoding: chunked"
                body = await self.chunks(reader) if chunked else await reader.readexactly(size)
                status, answer = self.answer(method, path.partition("?")[0], body)
                data = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(data)))
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def chunks(self, reader):
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body

    def answer(self, method, path, body):
        if path.endswith("/version"):
            return 200, {"ApiVersion": "1.41"}
        if path.endswith("/info"):
            return 200, self.info
        if method == "GET" and "/images/" in path:
            return 200, IMAGE
        if path.endswith("/containers/create"):
            # where nothing is mounted, a container carries the files first
            self.tried.append("socket" if json.loads(body)["HostConfig"].get("Mounts") else "stdio")
        return 500, {"message": f"no {self.tried[-1] if self.tried else path}"}


def probed(tmp_path, *, runtime="", **info):
    async def main():
        engine = FakeEngine(**info)
        server = await asyncio.start_unix_server(engine.serve, tmp_path / "engine.sock")
        driver = DockerDriver("0123456789abcdef", tmp_path, url=f"unix://{tmp_path}/engine.sock", runtime=runtime)
        try:
            return await driver.probe(), engine.tried
        finally:
            await driver.close()
            server.close()

    return asyncio.run(main())


@pytest.mark.parametrize("runtime", ["runsc", "kata-runtime"])
def test_a_runtime_with_a_kernel_of_its_own_is_tried_over_stdio_first(tmp_path, runtime):
    status, tried = probed(tmp_path, runtime=runtime)
    assert tried == ["stdio", "socket"]
    assert "no stdio" in status.reason, "the first one's failure is what is told"


def test_the_engines_own_default_counts_where_none_was_chosen(tmp_path):
    assert probed(tmp_path, DefaultRuntime="runsc")[1] == ["stdio", "socket"]


@pytest.mark.parametrize("runtime", ["", "crun"])
def test_every_other_runtime_is_tried_with_a_mounted_socket_first(tmp_path, runtime):
    status, tried = probed(tmp_path, runtime=runtime)
    assert tried == ["socket", "stdio"]
    assert "no socket" in status.reason
