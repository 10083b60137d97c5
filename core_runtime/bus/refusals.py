"""A call that goes no further: raised where the reason is found, answered where the call came in.

Not here: how errors travel (``calls.Failure``).
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw
from msgspec.msgpack import Encoder

from core_runtime.bus.calls import Failure
from core_runtime.rules.schemas import Checker
from core_runtime.rules.values import ValueProblem, unpack

MAX_CHECKED_BYTES: Final = 1024 * 1024
"""Of a value that a schema is checked against: it is decoded and encoded anew while everybody waits."""
_reencode = Encoder().encode


class Refused(Exception):  # noqa: N818  control flow inside the bus: a call that goes no further
    """Carries the ``Failure`` that the caller is answered with."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.title)
        self.failure = failure


def refused(type_: str, title: str, detail: str = "", *, retryable: bool = False) -> Refused:
    """Shorthand."""
    return Refused(Failure(type_, title, detail, retryable))


def checked(checker: Checker | None, body: Raw, what: str, decode_nodes: int) -> Raw:
    """Validate a body against a schema; the value that was checked is what travels on. Raises ``Refused``."""
    if checker is None:
        return body
    size = len(memoryview(body))
    if size > MAX_CHECKED_BYTES:
        raise refused(
            "value.too_large",
            f"{what}: {size} bytes are too many",
            f"what a schema is to be checked against takes at most {MAX_CHECKED_BYTES}",
        )
    try:
        value = unpack(body, max_nodes=decode_nodes)
    except ValueProblem as exc:
        raise refused(exc.type, f"{what}: {exc}") from exc
    problem = checker.problem(value, len(memoryview(body)))
    if problem is not None:
        raise refused("schema", f"{what}: not what the interface's schema describes", problem)
    return Raw(_reencode(value))
