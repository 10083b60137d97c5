"""Sends spans to a receiver of OTLP over HTTP, in JSON. One request at a time, bounded in time; no redirects.

Not here: when, what to do when it fails (``tracing``), the document (``rules.otlp``).
"""

from __future__ import annotations

import contextlib
import http.client
from typing import Final
from urllib.parse import urlsplit

from core_runtime.rules.otlp import TraceConfig

_ANSWER_BYTES: Final = 4_096


def send(config: TraceConfig, body: bytes) -> str:
    """Why it was not taken, ``""`` when it was. Does not raise for what the other side does."""
    parts = urlsplit(config.url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=config.timeout_s)
    headers = {**config.headers, "Content-Type": "application/json"}
    with contextlib.closing(connection):
        try:
            connection.request("POST", parts.path or "/", body, headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"[:300]
    return "" if answer.status == 200 else f"the receiver answered {answer.status}"
