"""A Docker engine that one test has for itself, so that it may be killed and started again under a running host."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from rumi_setup.core import base_image, engine, files, process
from rumi_setup.core.docker_http import Engine
from rumi_setup.core.progress import Silent


class OwnEngine:
    """``with OwnEngine() as own``: with the base image in it. Enter it on a thread that lives as long (death signal)."""

    def __init__(self, *, runtimes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> None:
        """``runtimes``: as an engine's ``daemon.json`` names them, beside its own."""
        self._more = {"runtimes": {name: dict(one) for name, one in runtimes.items()}} if runtimes else {}
        self._place = engine._Place(Path(tempfile.mkdtemp(prefix=engine._PREFIX, dir="/tmp")))
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self._place.socket}"

    @property
    def client(self) -> Engine:
        return Engine(self.address)

    def __enter__(self) -> Self:
        try:
            me = os.getpid()
            files.write_json(self._place.folder / "owner.json", {"pid": me, "started": process.start_time(me)})
            engine._need_cgroup()
            self.start()
            base_image.build_local(self.client, Silent())
            base_image.build_official_base(self.client, Silent())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        engine._tear_down(self._place, self._child)

    def start(self) -> None:
        self._child = engine._launch(self._place, self._more)
        engine._wait(self._child, self._place)

    def kill(self) -> None:
        """As a crash of ``dockerd`` would; its containers and their shims go on for a while."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()
        # Its containerd dies with it. Where the machine's process 1 buries nobody, the pid file names a zombie, which
        # the next dockerd takes for alive and waits for.
        for left in (self._place.socket, self._place.folder / "x/containerd/containerd.pid"):
            left.unlink(missing_ok=True)
