"""Spans as OTLP/HTTP carries them in JSON, and the standard variables that say where to. Pure.

Of OpenTelemetry's variables these count: ``OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT``, ``_HEADERS``, ``_TIMEOUT``,
``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER`` with its ``_ARG``, ``OTEL_SDK_DISABLED``,
``OTEL_TRACES_EXPORTER`` (``none``), ``OTEL_BSP_SCHEDULE_DELAY``, ``_MAX_QUEUE_SIZE``, ``_MAX_EXPORT_BATCH_SIZE``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

PATH: Final = "/v1/traces"
INTERNAL, SERVER, CLIENT = 1, 2, 3
_RATIO_BITS: Final = 64
_SAMPLERS: Final = {"always_on": 1.0, "always_off": 0.0}


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Where spans go. ``ratio``: the share of traces that begin here and are recorded."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 10.0
    service: str = "rumi"
    attributes: Mapping[str, str] = field(default_factory=dict)
    ratio: float = 1.0
    follow_parent: bool = True
    delay_s: float = 5.0
    queue: int = 2_048
    batch: int = 512


class Span(Struct, frozen=True):
    """One finished piece of work. Times in nanoseconds since 1970; ``error`` is a type, ``""`` when it went well."""

    trace_id: str
    span_id: int
    parent_id: int
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, str], ...] = ()
    error: str = ""


def config_of(environment: Mapping[str, str]) -> TraceConfig | str | None:
    """Where spans go; None where nobody asked for them; the reason when it can't be done as asked."""
    given = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_") and value.strip()}
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    url = given.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or _below(given.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
    if not url:
        return None
    try:
        parts = urlsplit(url)
        port_fault = parts.port == 0
    except ValueError:
        return "the endpoint is no URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username or port_fault:
        return "the endpoint is no plain http or https URL"
    headers = _listed(_either(given, "HEADERS"))
    if any(not (name + value).isascii() or not (name + value).isprintable() for name, value in headers.items()):
        return "a header of the exporter holds a character that no header may"
    sampler = given.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").lower()
    base = sampler.removeprefix("parentbased_")
    if base not in {*_SAMPLERS, "traceidratio"}:
        return "the sampler is none of always_on, always_off, traceidratio, with or without parentbased_"
    try:
        ratio = _SAMPLERS[base] if base in _SAMPLERS else float(given.get("OTEL_TRACES_SAMPLER_ARG", "1"))
        timeout_s = int(_either(given, "TIMEOUT") or "10000") / 1000
        delay_s = int(given.get("OTEL_BSP_SCHEDULE_DELAY", "5000")) / 1000
        queue = int(given.get("OTEL_BSP_MAX_QUEUE_SIZE", "2048"))
        batch = int(given.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"))
    except ValueError:
        return "a number in the OTEL_ variables is none"
    if not (0 <= ratio <= 1 and 0 < timeout_s <= 600 and 0 < delay_s <= 3600 and 0 < batch <= queue <= 1_000_000):
        return "a number in the OTEL_ variables is out of range"
    resource = _listed(given.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    service = given.get("OTEL_SERVICE_NAME") or resource.pop("service.name", "rumi")
    resource.pop("service.name", None)
    return TraceConfig(
        url, headers, timeout_s, service, resource, ratio, sampler.startswith("parentbased_"), delay_s, queue, batch
    )


def sampled(trace_id: str, ratio: float) -> bool:
    """Whether a trace is recorded: decided by its id, so that all who decide by it agree."""
    return int(trace_id[16:], 16) < ratio * (1 << _RATIO_BITS)


def document(config: TraceConfig, spans: Sequence[Span]) -> bytes:
    """The body of one export."""
    resource = {"service.name": config.service, **config.attributes}
    scope = {"scope": {"name": "rumi"}, "spans": [_span(span) for span in spans]}
    whole = {"resourceSpans": [{"resource": {"attributes": _attributes(resource.items())}, "scopeSpans": [scope]}]}
    return json.dumps(whole, ensure_ascii=True, separators=(",", ":")).encode()


def _span(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": f"{span.span_id:016x}",
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {"code": 2, "message": span.error} if span.error else {},
    }
    if span.parent_id:
        found["parentSpanId"] = f"{span.parent_id:016x}"
    return found


def _attributes(pairs: Any) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": value}} for name, value in pairs]


def _below(endpoint: str) -> str:
    return endpoint.rstrip("/") + PATH if endpoint else ""


def _either(given: Mapping[str, str], name: str) -> str:
    return given.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or given.get(f"OTEL_EXPORTER_OTLP_{name}", "")


def _listed(text: str) -> dict[str, str]:
    """``name=value,…`` with percent escapes, as W3C Baggage writes it."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals and name.strip()}
