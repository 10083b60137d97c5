"""The parts of the sandbox's proxy that read what a client sends: bodies, lengths, authorities, refusals."""

from __future__ import annotations

import importlib.util
import itertools
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.documents import ROOT


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("container_network", ROOT / "docker/core/runtime/container_network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


network: Any = _module()


def read(body: Any, pieces: list[bytes]) -> tuple[bytes | None, bytes]:
    """(the body, or None where it is malformed; what was left over)."""
    data, found = bytearray(), b""
    for piece in pieces:
        data += piece
        while part := body.take(data):
            found += part
        if part is None:
            return None, bytes(data)
    return found, bytes(data)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.lists(st.integers(0, 2_000), max_size=6), st.binary(max_size=20))
def test_chunks_in_any_cut(chunks: list[bytes], at: list[int], behind: bytes) -> None:
    sent = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    body = network.Body(None)
    assert read(body, cut(sent + behind, at)) == (b"".join(chunks), behind)
    assert body.complete


@given(st.binary(max_size=500), st.lists(st.integers(0, 600), max_size=5), st.binary(max_size=20))
def test_a_known_length_in_any_cut(data: bytes, at: list[int], behind: bytes) -> None:
    body = network.Body(len(data))
    assert read(body, cut(data + behind, at)) == (data, behind)
    assert body.complete


@given(st.binary(max_size=200))
def test_whatever_comes_as_chunks_never_raises(data: bytes) -> None:
    read(network.Body(None), [data])


@pytest.mark.parametrize(
    "data",
    [b"\r\n", b"-1\r\n", b"0x5\r\nhello", b"5 5\r\nhello", b"123456789\r\n", b"z\r\n", b"5\r\nhelloXX", b"0\r\nTrailer: x\r\n\r\n", b"1" * 2_000, b"+5\r\nhello", b"5_0\r\n"],
)  # fmt: skip
def test_malformed_chunks(data: bytes) -> None:
    assert read(network.Body(None), [data])[0] is None


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], 0), ([("content-length", "5")], 5), ([("content-length", "5"), ("content-length", "5")], 5), ([("transfer-encoding", "Chunked")], None),
     ([("content-length", "5"), ("content-length", "6")], "bad"), ([("content-length", "+5")], "bad"), ([("content-length", "5"), ("transfer-encoding", "chunked")], "bad"),
     ([("transfer-encoding", "gzip, chunked")], "bad"), ([("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "bad"), ([("content-length", "9" * 16)], "bad"),
     ([("content-length", "")], "bad"), ([("content-length", "5, 5")], "bad")],
)  # fmt: skip
def test_lengths_that_contradict_each_other_are_none(headers: list[tuple[str, str]], length: Any) -> None:
    found = network.body_of(headers)
    assert (found is None) == (length == "bad")
    assert found is None or found.length == length


@pytest.mark.parametrize(
    ("text", "found"),
    [("a.example:443", ("a.example", 443)), ("a.example", ("a.example", 80)), ("[::1]:5", ("[::1]", 5)), ("[::1]", ("[::1]", 80)), ("a:b", ("a", 0)),
     ("a:", ("a", 0)), ("a:000080", ("a", 0)), ("", ("", 80)), ("a:\u0665", ("a", 0))],
)  # fmt: skip
def test_authorities_are_passed_on_as_written(text: str, found: tuple[str, int]) -> None:
    assert network.split_port(text, 80) == found


@pytest.mark.parametrize(
    ("kind", "status"),
    [("denied", 403), ("fetch_only", 403), ("egress.address_refused", 403), ("egress.budget.connections", 429), ("limit", 429), ("timeout", 504), ("name_timeout", 504),
     ("name_unknown", 502), ("unreachable", 502), ("error/ValueError", 502), ("egress.target_invalid", 400), ("arguments", 400), ("egress_budgets_unusable", 403)],
)  # fmt: skip
def test_refusals_have_a_status(kind: str, status: int) -> None:
    assert network.status_of(SimpleNamespace(type=kind)) == status
    assert status in network.STATUS
    assert status in network.SOCKS_REPLY


def test_a_refusal_is_one_sentence_after_the_other() -> None:
    assert network.reason_of(SimpleNamespace(title="No.", detail="Ask.")) == "No. Ask."
    assert network.reason_of(ValueError("x")) == "x"
