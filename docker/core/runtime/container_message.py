"""What a client of the proxy says, read: the body behind a head of HTTP/1, its length, the authority of a target.

Invariant: a message with two readings is malformed. Not here: connections (``container_proxy``).
"""

from __future__ import annotations

from container_channel import ITEM_BYTES  # type: ignore[import-not-found]  # beside this file, not on the path


class Body:
    """What follows a request's head: ``length`` bytes, or chunks (None)."""

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.left = length or 0
        self.complete = length == 0
        self.inside = False

    def take(self, data: bytearray) -> bytes | None:
        """The next part out of ``data``, ``b""`` where none is there yet, None where it is malformed."""
        if not self.complete and self.length is None and not self.inside:
            found = self.chunk_head(data)
            if found is not True:
                return b"" if found is False else None
        if self.complete:
            return b""
        part = bytes(data[: min(self.left, ITEM_BYTES)])
        del data[: len(part)]
        self.left -= len(part)
        if not self.left:
            if self.length is None:
                self.inside = False
                self.left = -1
            else:
                self.complete = True
        return part

    def chunk_head(self, data: bytearray) -> bool | None:
        """Read the size of the next chunk; False: not there yet, None: malformed."""
        if self.left == -1:
            if len(data) < 2:
                return False
            if data[:2] != b"\r\n":
                return None
            del data[:2]
            self.left = 0
        end = data.find(b"\r\n")
        if end < 0:
            return False if len(data) < 1024 else None
        size = bytes(data[:end]).partition(b";")[0].strip()
        if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
            return None
        self.left = int(size, 16)
        if self.left:
            del data[: end + 2]
            self.inside = True
            return True
        trailer = data.find(b"\r\n", end + 2)
        if trailer < 0:
            return False
        if trailer != end + 2:
            return None  # trailers: nobody here forwards them
        del data[: end + 4]
        self.complete = True
        return True


def body_of(headers: list[tuple[str, str]]) -> Body | None:
    """What follows, by the headers (lower-case names); None where they contradict each other."""
    lengths = {value for name, value in headers if name == "content-length"}
    coding = [value.lower() for name, value in headers if name == "transfer-encoding"]
    if coding:
        return Body(None) if coding == ["chunked"] and not lengths else None
    if not lengths:
        return Body(0)
    text = lengths.pop()
    return Body(int(text)) if not lengths and text.isascii() and text.isdigit() and len(text) < 16 else None


def split_port(authority: str, default: int) -> tuple[str, int]:
    """``host:port`` as it was written; 0 (refused by the host) where the port is none."""
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        return authority, default
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
