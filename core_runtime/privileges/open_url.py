"""``open_url``: open a page of a granted domain in the operator's browser. https only; the grant holds the domains."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from backend_core.errors import DeniedError, RequestError, quote
from core_runtime.privileges.base import Call, Privilege, register

OPENERS = (("xdg-open",), ("gio", "open"))


def _execute(call: Call) -> dict[str, Any]:
    assert call.desktop is not None
    url = str(call.args["url"])
    host = _host(url)
    if not any(_covers(str(domain), host) for domain in call.options["domains"]):
        raise DeniedError(
            "The domain is not granted", code="domain_denied", detail=f"{quote(host)} is none of the granted domains."
        )
    return {"opened": True, "with": call.desktop.run(OPENERS, last=url, lasting=True)}


def _host(url: str) -> str:
    """The one host that every reader of this URL sees; ``RequestError`` where readers could differ."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    written = host if port is None else f"{host}:{port}"
    plain = all("!" <= character <= "~" and character not in "\\\"'<>^`{|}" for character in url)
    named = host[:1].isalnum() and all(character.isalnum() or character in "-." for character in host)
    if parts.scheme != "https" or not plain or not named or parts.netloc != written or port not in {None, 443}:
        raise RequestError(
            "Not a URL that can be opened",
            code="url_invalid",
            detail=f"{quote(url, 120)}: expected https://<lower-case host>/…, ASCII only, no user, no other port.",
        )
    return host


def _covers(domain: str, host: str) -> bool:
    return host.endswith(domain[1:]) and host != domain[2:] if domain.startswith("*.") else host == domain


register(
    Privilege(
        id="open_url",
        title={"en": "Open pages of chosen sites in your browser", "ja": "選んだサイトのページをブラウザーで開く"},
        risk="medium",
        parameters={
            "type": "object",
            "properties": {"url": {"type": "string", "minLength": 9, "maxLength": 2000}},
            "required": ["url"],
            "additionalProperties": False,
        },
        options={
            "type": "object",
            "properties": {
                "domains": {
                    "type": "array",
                    "items": {
                        "type": "string",
                        "maxLength": 253,
                        "pattern": "^(\\*\\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$",
                    },
                    "minItems": 1,
                    "maxItems": 32,
                }
            },
            "required": ["domains"],
            "additionalProperties": False,
        },
        execute=_execute,
        disturbs=True,
        programs=OPENERS,
    )
)
