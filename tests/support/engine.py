"""The Docker engine that tests use: the one DOCKER_HOST names, which `./rumi test` starts where it can."""

from __future__ import annotations

import os

from rumi_setup.core.docker_http import Engine


def address() -> str:
    """For clients that want a URL; call it in tests marked `docker` only."""
    return Engine.from_environment().address


def base_image() -> str:
    """The image that sandboxes are started from, as the host's driver names it."""
    return os.environ.get("RUMI_BASE_IMAGE", "rumi-pack-base:1")
