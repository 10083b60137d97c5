"""The parts of the sandbox's proxy that read what a client sends: bodies, lengths, authorities, refusals."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.documents import ROOT


def _modules() -> Iterator[Any]:
    """Loaded as the agent does it: from beside it, by names that are not on the path otherwise."""
    folder = str(ROOT / "docker/core/runtime")
    sys.path.insert(0, folder)
    try:
        for name in ("container_channel", "container_message", "container_proxy"):
            yield importlib.import_module(name)
    finally:
        sys.path.remove(folder)


channel, message, proxy = _modules()


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
    body = message.Body(None)
    assert read(body, cut(sent + behind, at)) == (b"".join(chunks), behind)
    assert body.complete


@given(st.binary(max_size=500), st.lists(st.integers(0, 600), max_size=5), st.binary(max_size=20))
def test_a_known_length_in_any_cut(data: bytes, at: list[int], behind: bytes) -> None:
    body = message.Body(len(data))
    assert read(body, cut(data + behind, at)) == (data, behind)
    assert body.complete


@given(st.binary(max_size=200))
def test_whatever_comes_as_chunks_never_raises(data: bytes) -> None:
    read(message.Body(None), [data])


@pytest.mark.parametrize(
    "data",
    [b"\r\n", b"-1\r\n", b"0x5\r\nhello", b"5 5\r\nhello", b"123456789\r\n", b"z\r\n", b"5\r\nhelloXX", b"0\r\nTrailer: x\r\n\r\n", b"1" * 2_000, b"+5\r\nhello", b"5_0\r\n"],
)  # fmt: skip
def test_malformed_chunks(data: bytes) -> None:
    assert read(message.Body(None), [data])[0] is None


@pytest.mark.parametrize(
    ("headers", "length"),
    [([], 0), ([("content-length", "5")], 5), ([("content-length", "5"), ("content-length", "5")], 5), ([("transfer-encoding", "Chunked")], None),
     ([("content-length", "5"), ("content-length", "6")], "bad"), ([("content-length", "+5")], "bad"), ([("content-length", "5"), ("transfer-encoding", "chunked")], "bad"),
     ([("transfer-encoding", "gzip, chunked")], "bad"), ([("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "bad"), ([("content-length", "9" * 16)], "bad"),
     ([("content-length", "")], "bad"), ([("content-length", "5, 5")], "bad")],
)  # fmt: skip
def test_lengths_that_contradict_each_other_are_none(headers: list[tuple[str, str]], length: Any) -> None:
    found = message.body_of(headers)
    assert (found is None) == (length == "bad")
    assert found is None or found.length == length


@pytest.mark.parametrize(
    ("text", "found"),
    [("a.example:443", ("a.example", 443)), ("a.example", ("a.example", 80)), ("[::1]:5", ("[::1]", 5)), ("[::1]", ("[::1]", 80)), ("a:b", ("a", 0)),
     ("a:", ("a", 0)), ("a:000080", ("a", 0)), ("", ("", 80)), ("a:\u0665", ("a", 0))],
)  # fmt: skip
def test_authorities_are_passed_on_as_written(text: str, found: tuple[str, int]) -> None:
    assert message.split_port(text, 80) == found


@pytest.mark.parametrize(
    ("kind", "status"),
    [("denied", 403), ("fetch_only", 403), ("egress.address_refused", 403), ("egress.budget.connections", 429), ("limit", 429), ("timeout", 504), ("name_timeout", 504),
     ("name_unknown", 502), ("unreachable", 502), ("error/ValueError", 502), ("egress.target_invalid", 400), ("arguments", 400), ("egress_budgets_unusable", 403)],
)  # fmt: skip
def test_refusals_have_a_status(kind: str, status: int) -> None:
    assert channel.status_of(SimpleNamespace(type=kind)) == status
    assert status in proxy.STATUS
    assert status in proxy.SOCKS_REPLY


def test_a_refusal_is_one_sentence_after_the_other() -> None:
    assert channel.reason_of(SimpleNamespace(title="No.", detail="Ask.")) == "No. Ask."
    assert channel.reason_of(ValueError("x")) == "x"
