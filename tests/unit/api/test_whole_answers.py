"""The head of an answer goes together with its body, and none is ever kept back for good."""

import pytest

from core_runtime.api.protocol import _WholeAnswers

HEAD = b"HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 4\r\n\r\n"
OPEN_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Transport:
    """Notes each write, and the end."""

    def __init__(self):
        self.did = []

    def write(self, data):
        self.did.append(bytes(data))

    def close(self):
        self.did.append("closed")

    def abort(self):
        self.did.append("aborted")

    def is_closing(self):
        return self.did[-1:] in (["closed"], ["aborted"])


@pytest.fixture
def inner():
    return Transport()


@pytest.fixture
def answers(inner):
    return _WholeAnswers(inner)


def test_head_and_body_are_one_write(inner, answers):
    answers.write(HEAD)
    assert inner.did == []
    answers.write(b"body")
    answers.release()
    assert inner.did == [HEAD + b"body"]


def test_each_answer_of_a_connection_is_one_write(inner, answers):
    for _ in range(3):
        answers.write(HEAD)
        answers.write(b"body")
        answers.release()
    assert inner.did == [HEAD + b"body"] * 3


def test_an_answer_without_a_body_is_its_head(inner, answers):
    answers.write(HEAD)
    answers.release()
    assert inner.did == [HEAD]


def test_the_head_of_a_stream_does_not_wait_for_the_first_item(inner, answers):
    answers.write(OPEN_HEAD)
    assert inner.did == [OPEN_HEAD]
    answers.write(b"4\r\nitem\r\n")
    assert inner.did == [OPEN_HEAD, b"4\r\nitem\r\n"]


def test_a_body_that_looks_like_a_head_is_written_all_the_same(inner, answers):
    answers.write(HEAD)
    answers.write(HEAD)
    answers.write(HEAD)
    answers.release()
    assert b"".join(inner.did) == HEAD * 3


def test_what_was_written_before_the_end_arrives_and_nothing_after_an_abort(inner, answers):
    answers.write(HEAD)
    answers.close()
    assert inner.did == [HEAD, "closed"]
    assert answers.is_closing()
    other = Transport()
    cut = _WholeAnswers(other)
    cut.write(HEAD)
    cut.abort()
    assert other.did == ["aborted"]
