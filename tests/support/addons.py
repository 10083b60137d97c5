"""A Pack that admits addons and one that brings them, on a whole installation in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.trust_home import TrustHome

TARGET = "alpha:service:main"
DATA = "backend/components/main/data.json"
MANIFEST = "backend/components/main/manifest.json"
POLICY = {
    "allowed_manifest_paths": ["/extensions"],
    "editable_files": [{"path_glob": "*.json", "allowed_json_pointer_prefixes": ["/open"]},
                       {"path_glob": "new/*.json", "allowed_json_pointer_prefixes": [""]}],
}  # fmt: skip
ASKS = {"type": "addon.apply", "targets": [TARGET], "reason": "fits the service to you"}


def host_manifest(**fields: Any) -> str:
    """The manifest of ``alpha:service:main``, which admits addons."""
    return json.dumps(
        {"type": "service", "id": "main", "version": "1.0.0", "connectivity": {"provides": ["service.alpha"]},
         "extensions": {}, "addon_policy": POLICY, **fields}
    )  # fmt: skip


def add_host(home: TrustHome, *, data: Any = None, **options: Any) -> Path:
    """``alpha``, whose component has a patchable ``data.json``."""
    files = {MANIFEST: host_manifest(), DATA: json.dumps(data or {"open": {"x": 1}, "closed": 1})}
    return home.add("alpha", files={**files, **options.pop("files", {})}, **options)


def on_file(path: str, value: Any, *, file: str = "data.json", op: str = "add", **fields: Any) -> dict[str, Any]:
    """An entry that patches a file of the component."""
    return {"kind": "file_json_patch", "file": file, "patch": [{"op": op, "path": path, "value": value}], **fields}


def on_manifest(path: str, value: Any, *, op: str = "add") -> dict[str, Any]:
    """An entry that patches the component's manifest."""
    return {"kind": "manifest_json_patch", "patch": [{"op": op, "path": path, "value": value}]}


def addon(name: str, *entries: Mapping[str, Any], identity: str = "github:author/alpha", **fields: Any) -> str:
    """The document of an addon for ``alpha:service:main``."""
    target = {"pack_identity": identity, "component": {"type": "service", "id": "main"}, "apply": list(entries)}
    return json.dumps({"addon_id": name, "version": "1.0.0", "targets": [target], **fields})


def add_guest(
    home: TrustHome,
    *entries: Mapping[str, Any],
    pack_id: str = "guest",
    permissions: Sequence[Mapping[str, Any]] = (ASKS,),
    **fields: Any,
) -> Path:
    """``guest`` with one addon ``a``."""
    return home.add(
        pack_id,
        provides=(),
        permissions=permissions,
        files={"backend/addons/a.addon.json": addon("a", *entries, **fields)},
    )
