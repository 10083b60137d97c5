from __future__ import annotations

import threading

import pytest

from backend_core.errors import RequestError
from core_runtime.diagnostics import Diagnostics
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.rules.schemas import SchemaRefused


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def registry():
    return InterfaceRegistry(clock=Clock(), monotonic=Clock())


def test_strategies(registry):
    assert registry.get("k") is None
    assert registry.get("k", "first") is None
    assert registry.get("k", "all") == []
    for value in (1, 2, 3):
        registry.register("k", value)
    assert (registry.get("k"), registry.get("k", "first"), registry.get("k", "all")) == (3, 1, [1, 2, 3])
    with pytest.raises(RequestError):
        registry.get("k", "best")


def test_register_if_absent_and_a_ttl_that_expires():
    mono = Clock()
    registry = InterfaceRegistry(monotonic=mono)
    seen = []
    registry.observe("k", lambda key, old, new: seen.append((old, new)))
    assert registry.register_if_absent("k", 1, ttl=10)
    assert not registry.register_if_absent("k", 2)
    mono.now += 9.9
    assert registry.get("k") == 1
    assert registry.expire_due() == pytest.approx(0.1)
    mono.now += 0.2
    assert registry.get("k") is None
    assert registry.list() == {}
    assert seen == [(None, 1), (1, None)]
    assert registry.expire_due() is None
    assert registry.register_if_absent("k", 3)


def test_expiry_without_a_reader():
    mono = Clock()
    registry = InterfaceRegistry(monotonic=mono)
    registry.register_if_absent("k", 1, ttl=1)
    registry.register("k", 2)
    mono.now += 2
    registry.expire_due()
    assert registry.get("k", "all") == [2]


def test_handlers_with_schema_and_source(registry):
    registry.register_handler("h", len, {"type": "string"}, {"type": "integer"}, {"a": 1}, "def h(): …")
    assert registry.get_schema("h") == {"input": {"type": "string"}, "output": {"type": "integer"}}
    assert registry.get_source("h") == "def h(): …"
    registry.register("plain", 1)
    assert registry.get_schema("plain") is None
    assert registry.get_source("plain") is None
    assert registry.get_schema("none") is None
    with pytest.raises(RequestError):
        registry.register_handler("h", 5)
    with pytest.raises(SchemaRefused):
        registry.register_handler("h", len, {"type": "nonsense"})


def test_observers_by_key_and_glob(registry):
    seen = []
    registry.register("a.x", 0)
    one = registry.observe("a.*", lambda *args: seen.append(args), immediate=True)
    two = registry.observe("b", lambda *args: seen.append(args))
    registry.register("a.x", 1)
    registry.register("b", 2)
    registry.unregister("a.x")
    assert seen == [("a.x", None, 0), ("a.x", 0, 1), ("b", None, 2), ("a.x", 1, None)]
    assert registry.unobserve(one)
    assert not registry.unobserve(one)
    assert registry.unobserve_all("b") == 1
    assert not registry.unobserve(two)
    registry.observe("x", print)
    assert registry.unobserve_all() == 1


def test_a_failing_observer_is_recorded_and_disturbs_nobody():
    diagnostics = Diagnostics()
    registry = InterfaceRegistry(diagnostics)
    seen = []

    def bad(key, old, new):
        raise ValueError("observer")

    registry.observe("k", bad)
    registry.observe("k", lambda *args: seen.append(args))
    registry.register("k", 1)
    assert seen == [("k", None, 1)]
    assert diagnostics.issues()[0].code == "unexpected_error"


def test_an_observer_may_register_and_other_threads_may_read(registry):
    def react(key, old, new):
        done = threading.Thread(target=lambda: registry.register("other", registry.get("k")))
        done.start()
        done.join(5)
        assert not done.is_alive(), "observers run outside the lock"

    registry.observe("k", react)
    registry.register("k", 7)
    assert registry.get("other") == 7


def test_temporary_override(registry):
    registry.register("k", 1)
    with registry.temporary_override("k", 2):
        assert registry.get("k", "all") == [2]
        assert registry.get("k", "first") == 2
        with registry.temporary_override("k", 3):
            assert registry.get("k") == 3
        assert registry.get("k") == 2
    assert registry.get("k", "all") == [1]
    with pytest.raises(KeyError), registry.temporary_override("new", 1):
        raise KeyError
    assert registry.get("new") is None


def test_the_host_overrides_an_owners_value_and_a_pack_only_its_own(registry):
    registry.set_owner("k", "a")
    registry.add("k", "a1", pack="a")
    registry.add("k", "b1", pack="b")
    registry.add("k", "b2", pack="b", override=True)
    assert registry.get("k", "all") == ["a1", "b2"]
    assert registry.get("k") == "a1"
    with registry.temporary_override("k", "host"):
        assert registry.get("k") == "host"
    assert registry.get("k") == "a1"


def test_ownership(registry):
    registry.add("k", "other", pack="b")
    assert registry.get("k") == "other"
    registry.set_owner("k", "a")
    assert registry.get("k") is None
    assert registry.get("k", "first") is None
    assert registry.get("k", "all") == ["other"]
    entry = registry.add("k", "mine", pack="a")
    registry.add("k", "later", pack="b")
    assert registry.get("k") == registry.get("k", "first") == "mine"
    registry.remove({entry.number})
    assert registry.get("k") is None, "the owner is down: missing, never the runner-up"
    registry.set_owner("k", None)
    assert registry.get("k") == "later"
    assert registry.owner("k") is None


def test_list_find_unregister(registry):
    registry.register("a.x", 1, {"tag": "t"})
    registry.register("a.x", 2)
    registry.register("b", 3, {"tag": "t"})
    assert registry.list() == {"a.x": 2, "b": 1}
    assert registry.list("a.") == {"a.x": 2}
    assert registry.list("b", include_meta=True) == {"b": {"count": 1, "last_ts": 100.0, "last_meta": {"tag": "t"}}}
    assert registry.find(lambda key, entry: entry["meta"].get("tag") == "t") == ["a.x", "b"]
    assert registry.find(lambda key, entry: set(entry) == {"key", "value", "meta", "ts"} and entry["value"] == 3) == [
        "b"
    ]
    assert registry.unregister("a.x", lambda entry: entry["value"] == 1) == 1
    assert registry.get("a.x", "all") == [2]
    assert registry.unregister("a.x") == 1
    assert registry.unregister("a.x") == 0


def test_keys_are_checked(registry):
    for key in ("", "x" * 257, None, 5):
        with pytest.raises(RequestError):
            registry.register(key, 1)


def test_concurrent_registration_loses_nothing(registry):
    threads = [threading.Thread(target=lambda: [registry.register("k", i) for i in range(200)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(registry.get("k", "all")) == 800
