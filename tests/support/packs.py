"""Packs written to disk for tests: the specification's minimal one, and any other from a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MINIMAL_ECOSYSTEM = """\
{
  "pack_id": "my_pack",
  "pack_identity": "github:author/my_pack",
  "version": "1.0.0",
  "description": "My first pack"
}
"""

MINIMAL_MANIFEST = """\
{
  "type": "service",
  "id": "hello",
  "version": "1.0.0",
  "connectivity": {
    "provides": ["service.hello"],
    "requires": []
  }
}
"""

MINIMAL_SETUP = """\
def run(context):
    ir = context["interface_registry"]
    
    def hello_handler(args, ctx):
        name = args.get("name", "World")
        return {"message": f"Hello, {name}!"}
    
    ir.register("service.hello", hello_handler)
"""  # noqa: W293 - byte for byte

MINIMAL_PERMISSIONS = """\
{
  "pack_id": "my_pack",
  "permissions": [
    {
      "type": "userdata.read",
      "paths": ["settings/my_config.json"],
      "reason": "設定を読み込むため"
    }
  ]
}
"""


def write_files(root: Path, files: dict[str, str | bytes | dict[str, Any]]) -> Path:
    """Write ``files`` (path → text, bytes or JSON) below ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return root


def minimal_pack(packs_dir: Path, *, permissions: bool = False) -> Path:
    """The specification's example, byte for byte."""
    files: dict[str, str | bytes | dict[str, Any]] = {
        "backend/ecosystem.json": MINIMAL_ECOSYSTEM,
        "backend/components/hello/manifest.json": MINIMAL_MANIFEST,
        "backend/components/hello/setup.py": MINIMAL_SETUP,
    }
    if permissions:
        files["backend/permissions.json"] = MINIMAL_PERMISSIONS
    return write_files(packs_dir / "my_pack", files)


def pack(packs_dir: Path, pack_id: str, *, files: dict[str, Any] | None = None, **ecosystem: Any) -> Path:
    """A Pack with ``ecosystem`` fields over the required ones, and further ``files`` below ``backend/``."""
    document = {"pack_id": pack_id, "version": "1.0.0", **ecosystem}
    inside = {f"backend/{name}": content for name, content in (files or {}).items()}
    return write_files(packs_dir / pack_id, {"backend/ecosystem.json": document, **inside})


def manifest(component_type: str, component_id: str, **fields: Any) -> dict[str, Any]:
    """A component manifest."""
    return {"type": component_type, "id": component_id, "version": "1.0.0", **fields}
