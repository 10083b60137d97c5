"""What Packs' code and the host's own meet inside one process: publishing an event, reading the registry.

Events go to ten plain subscribers that do nothing. The peers isolate as they do: pluggy and blinker let the first
failure end the round, pyee raises it; ours keeps each subscriber's failure to itself and gives every event an id, a
source and a time.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.harness import Report, Subject, measure
from core_runtime.event_bus import EventBus
from core_runtime.interface_registry import InterfaceRegistry

SUBSCRIBERS = 10
EVENTS = 20_000
READS = 200_000
OURS = "publish to 10 subscribers"
LOOP = "floor: loop over 10 functions"
GET = "registry get"
DICT = "floor: dict get"
LOCKED = "floor: dict get under a lock"


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; a peer that is not installed is named under ``missing``."""
    share = 10 if quick else 1
    subjects: dict[str, Subject] = {LOOP: _repeated(_loop()), OURS: _repeated(_ours())}
    for name, publisher in (("pyee", _pyee), ("pluggy", _pluggy), ("blinker", _blinker)):
        try:
            subjects[f"peer: {name}, 10 subscribers"] = _repeated(publisher())
        except ImportError as error:
            report.missing[f"peer: {name}, 10 subscribers"] = str(error)
    peers = {name: (OURS, 1.0) for name in subjects if name.startswith("peer:")}
    wanted = {OURS: "5 µs asked, 3 µs aimed at"} | dict.fromkeys(peers, "aim ≥ 1")
    report.rows += measure(subjects, n=EVENTS // share, reference={OURS: (LOOP, 1.0), **peers}, must=wanted)
    report.rows += measure(
        _reads(), n=READS // share, reference={GET: (LOCKED, 1.0)}, must={GET: "1 µs asked, 0.5 µs aimed at"}
    )


def _nothing(_payload: Any) -> None:
    """A subscriber."""


def _repeated(publish: Callable[[Any], Any]) -> Subject:
    def measured(n: int) -> float:
        payload = {"text": "x"}
        start = time.perf_counter()
        for _ in range(n):
            publish(payload)
        return time.perf_counter() - start

    return measured


def _loop() -> Callable[[Any], Any]:
    functions = tuple(_subscriber() for _ in range(SUBSCRIBERS))

    def publish(payload: Any) -> None:
        for function in functions:
            function(payload)

    return publish


def _subscriber() -> Callable[[Any], None]:
    def listen(payload: Any) -> None:
        _nothing(payload)

    return listen


def _ours() -> Callable[[Any], Any]:
    events = EventBus()
    for _ in range(SUBSCRIBERS):
        events.subscribe("bench.happened", _subscriber())
    return lambda payload: events.publish("bench.happened", payload)


def _pyee() -> Callable[[Any], Any]:
    emitter = importlib.import_module("pyee.base").EventEmitter()
    for _ in range(SUBSCRIBERS):
        emitter.add_listener("happened", _subscriber())
    return lambda payload: emitter.emit("happened", payload)


def _pluggy() -> Callable[[Any], Any]:
    pluggy = importlib.import_module("pluggy")
    specification, implementation = pluggy.HookspecMarker("bench"), pluggy.HookimplMarker("bench")

    class Specification:
        @specification  # type: ignore[untyped-decorator]  # pluggy is there in the bench's environment only
        def happened(self, payload: Any) -> None:
            """An event."""

    class Plugin:
        @implementation  # type: ignore[untyped-decorator]  # as above
        def happened(self, payload: Any) -> None:
            _nothing(payload)

    manager = pluggy.PluginManager("bench")
    manager.add_hookspecs(Specification)
    for _ in range(SUBSCRIBERS):
        manager.register(Plugin())
    return lambda payload: manager.hook.happened(payload=payload)


def _blinker() -> Callable[[Any], Any]:
    signal = importlib.import_module("blinker").Signal()
    kept = [_subscriber() for _ in range(SUBSCRIBERS)]
    for function in kept:
        signal.connect(function, weak=False)
    return signal.send


def _reads() -> dict[str, Subject]:
    registry = InterfaceRegistry()
    plain = {f"service.{number}": object() for number in range(200)}
    for key, value in plain.items():
        registry.register(key, value)
    lock = threading.Lock()

    def locked(key: str) -> object:
        with lock:
            return plain.get(key)

    return {DICT: _read(plain.get), LOCKED: _read(locked), GET: _read(registry.get)}


def _read(get: Callable[[str], Any]) -> Subject:
    def measured(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            get("service.77")
        return time.perf_counter() - start

    return measured
