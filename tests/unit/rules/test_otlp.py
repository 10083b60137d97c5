from __future__ import annotations

import json

import pytest

from core_runtime.rules.otlp import CLIENT, Span, TraceConfig, config_of, document, sampled

AT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_off_unless_asked_for() -> None:
    assert config_of({}) is None
    assert config_of({"OTEL_SERVICE_NAME": "x", AT: " "}) is None
    assert config_of({AT: "http://a:4318", "OTEL_SDK_DISABLED": "True"}) is None
    assert config_of({AT: "http://a:4318", "OTEL_TRACES_EXPORTER": "none"}) is None


def test_the_standard_variables() -> None:
    assert config_of({AT: "http://a:4318/"}) == TraceConfig("http://a:4318/v1/traces")
    assert config_of({AT: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://b/x"}) == TraceConfig("https://b/x")
    found = config_of({
        AT: "https://a:4318/base", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=1,", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=ignored,deployment.environment=test", "OTEL_SERVICE_NAME": "mine",
        "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5",
    })  # fmt: skip
    assert found == TraceConfig(
        "https://a:4318/base/v1/traces", {"api-key": "a b", "x": "1"}, 2.5, "mine", {"deployment.environment": "test"}, 0.25, False, 0.1, 10, 5
    )
    assert "a b" not in repr(found), "headers hold credentials"
    of_resource = config_of({AT: "http://a", "OTEL_RESOURCE_ATTRIBUTES": "service.name=named"})
    assert isinstance(of_resource, TraceConfig)
    assert (of_resource.service, of_resource.attributes) == ("named", {})


@pytest.mark.parametrize(
    "wrong",
    [
        {AT: "a:4318"}, {AT: "ftp://a"}, {AT: "http://"}, {AT: "http://u:p@a"}, {AT: "http://a:99999"}, {AT: "http://a?x=1"},
        {AT: "http://a", "OTEL_TRACES_SAMPLER": "jaeger_remote"}, {AT: "http://a", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
        {AT: "http://a", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
        {AT: "http://a", "OTEL_BSP_MAX_QUEUE_SIZE": "1"}, {AT: "http://a", "OTEL_BSP_SCHEDULE_DELAY": "0"},
        {AT: "http://a", "OTEL_EXPORTER_OTLP_HEADERS": "x=a%0d%0aHost: b"}, {AT: "http://a", "OTEL_TRACES_SAMPLER_ARG": "nan", "OTEL_TRACES_SAMPLER": "traceidratio"},
    ],
)  # fmt: skip
def test_what_can_not_be_done_as_asked_is_said(wrong: dict[str, str]) -> None:
    assert isinstance(config_of(wrong), str)


def test_sampling_is_decided_by_the_trace() -> None:
    low, high = "f" * 16 + "0" * 16, "0" * 16 + "f" * 16
    assert sampled(low, 0.01)
    assert not sampled(high, 0.99)
    assert sampled(high, 1.0)
    assert not sampled(low, 0.0)


def test_the_document() -> None:
    config = TraceConfig("http://a", service="s", attributes={"k": "v"})
    span = Span("ab" * 16, 1, 2, "n\u202e", CLIENT, 10, 20, (("a", "b"),), "error/X")
    found = json.loads(document(config, [span, Span("ab" * 16, 2, 0, "root", 2, 5, 25)]))
    [resource] = found["resourceSpans"]
    assert resource["resource"]["attributes"] == [
        {"key": "service.name", "value": {"stringValue": "s"}}, {"key": "k", "value": {"stringValue": "v"}},
    ]  # fmt: skip
    first, second = resource["scopeSpans"][0]["spans"]
    assert first == {
        "traceId": "ab" * 16, "spanId": "0000000000000001", "parentSpanId": "0000000000000002", "name": "n\u202e", "kind": 3,
        "startTimeUnixNano": "10", "endTimeUnixNano": "20", "attributes": [{"key": "a", "value": {"stringValue": "b"}}],
        "status": {"code": 2, "message": "error/X"},
    }  # fmt: skip
    assert "parentSpanId" not in second
    assert second["status"] == {}
