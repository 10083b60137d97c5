"""The publishers' keys that Packs were first approved with: ``permissions/publishers.json``, signed.

Invariants:
  * A list that can't be believed, that is gone or older than the latest change, is a refusal: nothing is approved or
    added as if no key had been seen, until the operator begins anew (``reset``).
  * Only ``pin`` adds, and never over another key: that takes ``forget``, which is the operator's.
  * Where the counters themselves are lost, the list is believed by its signature alone: an older one only knows less.

Not here: what a key says about a Pack (``rules.signing``), who decides (``approvals``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any, Final

from backend_core.errors import ConflictError, NotFoundError, TrustError, quote
from core_runtime.drivers.counters import Counters, Entry, Ledger
from core_runtime.drivers.faults import hit
from core_runtime.drivers.keys import Keyring
from core_runtime.rules.grants import seconds, timestamp
from core_runtime.rules.seals import Fault
from core_runtime.rules.signing import Pin

FILE: Final = "publishers.json"
PURPOSE: Final = "publishers"
SUBJECT: Final = "#publishers"


class Publishers:
    """Pins by Pack id. Thread-safe."""

    def __init__(self, keyring: Keyring, ledger: Ledger) -> None:
        self._keyring = keyring
        self._ledger = ledger
        self._path = keyring.folder / FILE
        self._mutex = threading.Lock()

    def all(self) -> Mapping[str, Pin]:
        """Every pin. Raises ``TrustError`` where the list can't be believed."""
        with self._mutex:
            return self._read()

    def of(self, pack_id: str) -> Pin | None:
        """The pin of one Pack."""
        return self.all().get(pack_id)

    def pin(self, pack_id: str, pin: Pin) -> None:
        """Remember a key for good. ``ConflictError`` where another one stands already."""
        with self._mutex:
            pins = self._read()
            held = pins.setdefault(pack_id, pin)
            if held.key != pin.key:
                raise ConflictError("Another key is known", code="publisher_changed", detail=f"It is {held.key}.")
            if held is pin:
                self._write(pins)

    def forget(self, pack_id: str) -> Pin:
        """Take one away; which it was."""
        with self._mutex:
            pins = self._read()
            held = pins.pop(pack_id, None)
            if held is None:
                raise NotFoundError(
                    "No publisher is known for it",
                    code="publisher_unknown",
                    detail=f"{quote(pack_id)} was never approved with a signature.",
                    hint="See which are: rumi publisher list",
                )
            self._write(pins)
            return held

    def reset(self) -> None:
        """Begin anew with no key known: the way out when the list can't be believed."""
        with self._mutex:
            if isinstance(self._ledger.read(), Counters):
                self._ledger.change(SUBJECT, lambda entry: Entry(entry.counter + 2))
                self._write({})
                return
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _read(self) -> dict[str, Pin]:
        document = self._keyring.read(self._path, PURPOSE, PURPOSE)
        counters = self._ledger.read()
        counter = counters.of(SUBJECT).counter if isinstance(counters, Counters) else 0
        if document is None and counter == 0:
            return {}
        if document is None:
            document = Fault(f"{PURPOSE}_missing", "The list is gone, though keys were known.")
        elif not isinstance(document, Fault) and document.get("counter", 0) < counter:
            document = Fault(f"{PURPOSE}_rolled_back", "The list is older than the latest change.")
        if isinstance(document, Fault):
            raise TrustError(
                "The known publishers can't be believed",
                code=document.cause,
                detail=document.detail,
                hint="Put user_data/permissions/publishers.json back, or begin anew: rumi publisher reset",
            )
        return {str(name): _decode(one) for name, one in document["publishers"].items()}

    def _write(self, pins: Mapping[str, Pin]) -> None:
        """The list goes before its counter, so that a crash leaves the old one or the new."""
        number = self._ledger.trusted().of(SUBJECT).counter + 1
        found = {name: _encode(pin) for name, pin in sorted(pins.items())}
        self._keyring.write(self._path, {"counter": number, "publishers": found}, PURPOSE)
        hit("publishers.written")
        self._ledger.change(SUBJECT, lambda _: Entry(number))


def _encode(pin: Pin) -> dict[str, Any]:
    return {"key": pin.key, "publisher": pin.publisher, "version": pin.version, "since": timestamp(pin.since)}


def _decode(item: Mapping[str, Any]) -> Pin:
    """The list is signed by us."""
    return Pin(str(item["key"]), str(item["publisher"]), str(item["version"]), seconds(item["since"]))
