"""``ecosystem/docker/<pack_id>/sandbox/``: what isolates a Pack, as files for the operator to read. Pure.

Invariant: output only. Nothing reads these files back; what runs is rendered anew from the grant at every start.

Not here: ``handlers/``, ``scopes/`` and ``grants/`` beside it, and writing anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from core_runtime.rules.docker_config import SHM_BYTES, tmp_options
from core_runtime.rules.sandbox import (
    AGENT_COMMAND,
    AGENT_COMMAND_STDIO,
    ENVIRONMENT,
    PACK_MOUNT,
    PACKAGES_MOUNT,
    RUNTIME_MOUNT,
    SOCKET_MOUNT,
    Isolation,
    SandboxSpec,
)

_FIELD = re.compile(r"\{\{ ([a-z_]+) \}\}")


def render_operator_view(
    spec: SandboxSpec,
    rendered: Mapping[str, str],
    *,
    templates: Mapping[str, str],
    image: str,
    isolation: Isolation | None,
    attached: bool = False,
) -> dict[str, str]:
    """Path below ``ecosystem/docker/<pack_id>/`` → text.

    Args:
        spec: the sandbox.
        rendered: what the driver says it gives to the engine or to bubblewrap (``SandboxDriver.render``).
        templates: ``Dockerfile`` and ``docker-compose.yml`` → text of the templates of ``docker/core/templates``.
        image: id or name of the base image.
        isolation: last measured isolation; ``None`` before the first start.
        attached: whether the bus is the container's stdio and nothing is mounted.
    """
    container = json.loads(rendered.get("container.json", "{}")).get("HostConfig", {})
    fields = _fields(spec, image, attached=attached) | _engines(container)
    out = {f"sandbox/{name}": fill(text, fields) for name, text in templates.items()}
    out |= {f"sandbox/{name}": text for name, text in rendered.items()}
    if isolation is not None:
        out["sandbox/isolation.json"] = isolation_json(isolation)
    return out


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Replace ``{{ name }}``; an unknown name raises ``KeyError``, and a value is never expanded again."""
    return _FIELD.sub(lambda match: fields[match.group(1)], template)


def isolation_json(isolation: Isolation) -> str:
    """The measured isolation, readable by people and programs."""
    document = {
        "driver": isolation.driver.value,
        "level": isolation.level.name.lower(),
        "source": isolation.source,
        "findings": list(isolation.findings),
        "evidence": dict(isolation.evidence),
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _volumes(spec: SandboxSpec) -> str:
    """The read-only mounts as YAML of the compose file; a JSON string is a YAML string, whatever stands in it."""
    places = [(spec.pack_dir, PACK_MOUNT), (spec.runtime_dir, RUNTIME_MOUNT), (spec.socket_path, SOCKET_MOUNT)]
    lines = ["volumes:"]
    for source, target in [*places, *([(spec.packages_dir, PACKAGES_MOUNT)] if spec.packages_dir else [])]:
        lines += ["  - type: bind", f"    source: {json.dumps(source)}", f"    target: {target}", "    read_only: true"]
    return "\n    ".join(lines)


def _engines(container: Mapping[str, Any]) -> dict[str, str]:
    """What depends on the engine: lines of the compose file, a comment where there is nothing to say."""
    runtime = container.get("Runtime")
    apparmor = [option for option in container.get("SecurityOpt", ()) if option.startswith("apparmor=")]
    return {
        "runtime": f"runtime: {json.dumps(runtime)}" if runtime else "# runtime: the engine's default",
        "apparmor": f"- {apparmor[0].replace('=', ':')}" if apparmor else "# AppArmor: this engine has none",
    }


def _fields(spec: SandboxSpec, image: str, *, attached: bool) -> dict[str, str]:
    limits = spec.limits
    return {
        "pack_id": spec.pack_id,
        "installation_id": spec.installation_id,
        "generation": str(spec.generation),
        "digest": spec.digest,
        "image": image,
        "uid": str(spec.uid),
        "gid": str(spec.gid),
        "command": json.dumps(list(AGENT_COMMAND_STDIO if attached else AGENT_COMMAND)),
        "bus": "the container's stdio" if attached else SOCKET_MOUNT,
        "mounts": "stdin_open: true" if attached else _volumes(spec),
        "environment": json.dumps(dict(sorted(ENVIRONMENT.items()))),
        "memory_bytes": str(limits.memory_bytes),
        "tmp_options": tmp_options(limits),
        "shm_bytes": str(SHM_BYTES),
        "cpus": f"{limits.cpus:g}",
        "pids": str(limits.pids),
        "files": str(limits.files),
    }

