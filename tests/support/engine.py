"""The Docker engine that tests use: the one DOCKER_HOST names, which `./rumi test` starts where it can."""

from __future__ import annotations

import atexit
import functools
import os

from rumi_setup.core import engine
from rumi_setup.core.docker_http import Engine, EngineError


def address() -> str:
    """For clients that want a URL; call it in tests marked `docker` only."""
    return Engine.from_environment().address


def base_image() -> str:
    """The image that sandboxes are started from, as the host's driver names it."""
    return os.environ.get("RUMI_BASE_IMAGE", "rumi-pack-base:1")


@functools.cache
def with_gvisor() -> str:
    """Address of an engine that knows `runsc`: the one of all tests where it does, else one more, which ends with this
    process. For tests marked `gvisor` only; call it on the main thread.
    """
    try:
        if "runsc" in Engine.from_environment().ask("GET", "/info", timeout_s=10.0)["Runtimes"]:
            return address()
    except EngineError:
        pass  # there is none
    from tests.support.own_engine import OwnEngine

    own = OwnEngine(runtimes=engine.gvisor())
    own.__enter__()
    atexit.register(own.__exit__)
    return own.address
