"""Exit codes, the same for every command; `rumi --help` lists them.

What `rumi up` and `rumi setup` report about the machine itself keeps the codes of sysexits.h (64, 69, 70).
"""

OK = 0
FAILED = 1
USAGE = 2
HOST_DOWN = 3
DENIED = 4
NOT_FOUND = 5
CONFLICT = 6
PACK_FAILED = 7
INTERRUPTED = 130

MEANING = (
    (OK, "done"),
    (FAILED, "failed"),
    (USAGE, "the command line is wrong"),
    (HOST_DOWN, "the host does not run, or can't serve now"),
    (DENIED, "denied"),
    (NOT_FOUND, "no such thing"),
    (CONFLICT, "not in this state: a decision is needed first"),
    (PACK_FAILED, "a Pack's code or files failed"),
    (INTERRUPTED, "interrupted"),
)

_BY_STATUS = {
    401: DENIED, 403: DENIED, 421: DENIED, 404: NOT_FOUND, 409: CONFLICT, 422: PACK_FAILED, 502: PACK_FAILED,
    503: HOST_DOWN, 504: PACK_FAILED, 400: USAGE, 413: USAGE, 415: USAGE,
}  # fmt: skip


def for_status(status: int) -> int:
    """The exit code for an HTTP status of the management API."""
    return OK if status < 400 else _BY_STATUS.get(status, FAILED)
