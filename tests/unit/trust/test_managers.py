"""The smaller parts: uids, combination risk, used versus granted, asks, topics, the ledger, resources."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from backend_core.errors import DeniedError, HostError, TrustError
from core_runtime.drivers import keys
from core_runtime.drivers.counters import Entry, Ledger
from core_runtime.drivers.desktop import Desktop
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.uids import BLOCKS, COUNT, PREFERRED_FIRST, SMALL_COUNT, Uids, choose_range
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.rules.combination import PackNode, combination, with_supplier
from core_runtime.rules.findings import inspect
from core_runtime.rules.permissions import Allow, Deny
from tests.support.trust_home import TrustHome


def test_uids_are_stable_distinct_and_never_used_again(tmp_path):
    path = tmp_path / "permissions" / ".uids"
    uids = Uids(path, first=700_000, count=3)
    assert [uids("a"), uids("b"), uids("a")] == [700_000, 700_001, 700_000]
    assert Uids(path)("c") == 700_002
    with pytest.raises(HostError):
        Uids(path)("d")
    assert Uids(path)("b") == 700_001


def test_uids_of_two_processes_do_not_meet(tmp_path):
    path = tmp_path / "permissions" / ".uids"
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(Uids(path, first=700_000, count=100)(f"p{n}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 8


@pytest.mark.parametrize(
    "text",
    ["{", '{"uids": {"a": 1, "b": 1}, "first": 1, "count": 9}', '{"uids": {"a": 0}, "first": 1, "count": 9}', "[]"],
)
def test_damaged_table_of_uids_is_refused(tmp_path, text):
    path = tmp_path / ".uids"
    path.write_text(text)
    with pytest.raises(TrustError):
        Uids(path)("c")


def test_range_of_uids_fits_the_user_namespace(tmp_path):
    table = tmp_path / "uid_map"
    table.write_text("         0          0 4294967295\n")
    assert _is_a_block(*choose_range(table))
    table.write_text("         0     100000      65536\n")
    first, count = choose_range(table)
    assert (first > 0, first + count < 65536, count) == (True, True, SMALL_COUNT)
    assert _is_a_block(*choose_range(tmp_path / "none"))
    assert len({choose_range(tmp_path / "none") for _ in range(20)}) > 1, "two installations rarely share ids"


def node(pack_id, provides=(), calls=(), labels=()):
    return PackNode(pack_id, frozenset(provides), frozenset(calls), frozenset(labels))


def test_combination_risk_is_found_over_edges_with_its_path():
    reader = node("reader", calls=["relay.run"], labels=["private-data"])
    relay = node("relay", provides=["relay.run"], calls=["net.send"])
    sender = node("sender", provides=["net.send"], labels=["external-communication", "untrusted-input"])
    found = combination(reader, [relay, sender])
    assert found is not None
    assert found.complete
    assert found.paths["external-communication"] == ("reader", "relay", "sender")
    assert combination(reader, [sender]) is None
    assert combination(relay, [reader, sender]) is not None
    assert combination(node("idle"), []) is None


def test_combination_risk_is_found_over_flows_with_the_flow_in_its_path():
    reader = node("reader", provides=["reader.read"], labels=["private-data"])
    sender = node("sender", provides=["sender.send"], labels=["external-communication"])
    assert combination(sender, [reader]) is None
    joined = PackNode.flow("main", ["reader.read", "sender.send"], [])
    found = combination(sender, [reader, joined])
    assert found is not None
    assert found.paths["private-data"] == ("sender", "flow main", "reader")
    assert combination(sender, [reader, PackNode.flow("main", ["reader.read"], ["reader"])]) is None
    supplied = PackNode.flow("acme.answer", ["sender.send"], ["reader"])
    found = combination(sender, [reader, supplied])
    assert found is not None
    assert found.paths["private-data"] == ("sender", "flow acme.answer", "reader")
    changed = with_supplier([PackNode.flow("acme.answer", ["sender.send"], []), PackNode.flow("else", [], [])], "reader", ["acme.*"])
    assert [one.members for one in changed] == [frozenset({"reader"}), frozenset()]
    found = combination(reader, [sender, *changed])
    assert found is not None
    assert found.paths["external-communication"] == ("reader", "flow acme.answer", "sender")


def test_used_versus_granted_counts(tmp_path):
    home = TrustHome(tmp_path)
    home.add(
        permissions=[
            {"type": kind, "paths": ["shared/**"], "reason": "r"} for kind in ("userdata.read", "userdata.write")
        ]
    )
    home.approve()
    home.permissions.check("alpha", "userdata.read", path="shared/x")
    home.permissions.check("alpha", "userdata.read", path="shared/x")
    used = {usage.permission["type"]: usage.uses for usage in home.permissions.used_versus_granted("alpha")}
    assert used == {"userdata.read": 2, "userdata.write": 0}
    assert home.permissions.used_versus_granted("nobody") == []


def test_asks_are_bounded_and_answered_at_once_when_granted(tmp_path):
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": "userdata.read", "paths": ["shared/**"], "reason": "r"}])
    home.approve()
    assert home.permissions.ask("alpha", "userdata.read", {"path": "shared/x"}, "r") == "granted"
    for number in range(100):
        assert home.permissions.ask("alpha", "userdata.read", {"path": f"settings/{number}"}, "r" * 9999) == "asked"
    assert len(home.permissions.asks()) == 20
    assert len(home.permissions.asks()[0].reason) == 500
    home.permissions.forget("alpha")
    assert home.permissions.asks() == []


def test_visible_keys_are_own_and_granted_ones(tmp_path):
    home = TrustHome(tmp_path)
    home.approved(uses=["service.beta"])
    visible = home.permissions.visible_keys("alpha")
    assert [visible(key) for key in ("service.alpha", "service.beta", "service.gamma")] == [True, True, False]
    assert home.permissions.visible_keys("")("service.gamma")


def test_resources_of_a_grant(tmp_path):
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": "resources", "memory_mb": 512, "cpu": 1.5, "reason": "r"}])
    home.approve()
    assert dict(home.permissions.resources("alpha")) == {"memory_mb": 512, "cpu": 1.5}
    home.approve(permissions=[{"type": "resources", "memory_mb": 300}])
    assert dict(home.permissions.resources("alpha")) == {"memory_mb": 300}
    home.approve(permissions=[{"type": "resources", "memory_mb": 300, "until": home.clock() + 60}])
    assert dict(home.permissions.resources("alpha")) == {"memory_mb": 300}
    home.clock.advance(61)
    home.clock.now -= 3600
    assert dict(home.permissions.resources("alpha")) == {}, "moving the clock back gives nothing back"


def test_a_key_is_there_whole_or_not_at_all(tmp_path):
    """The host may be killed at any moment of its first start: half a key would be one that is none, for good."""
    folder = tmp_path / "permissions"
    child = os.fork()
    if child == 0:
        keys.write_all = lambda fd, data: (os.write(fd, data[:10]), os.kill(os.getpid(), signal.SIGKILL))
        Keyring(folder).ensure()
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert Keyring(folder).ensure() is True
    before = Keyring(folder).text()
    assert (Keyring(folder).ensure(), Keyring(folder).text()) == (False, before)
    (folder / ".secret_key").unlink()
    (folder / ".secret_key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrustError):
        Keyring(folder).ensure()
    assert not (tmp_path / "elsewhere").exists()


def test_ledger_never_falls_and_grows_beyond_its_first_size(tmp_path):
    keyring = Keyring(tmp_path / "permissions")
    keyring.ensure()
    ledger = Ledger(keyring)
    ledger.ensure()
    ledger.change("alpha", lambda _: Entry(5))
    with pytest.raises(ValueError):
        ledger.change("alpha", lambda _: Entry(4))
    size = (tmp_path / "permissions/.counters").stat().st_size
    for number in range(60):
        ledger.change(f"{'x' * 60}{number}", lambda e: Entry(e.counter + 1, used=frozenset(range(300))))
    assert (tmp_path / "permissions/.counters").stat().st_size > size
    assert ledger.trusted().of("alpha").counter == 5
    assert ledger.advance_clock(100.0) == 100.0
    assert ledger.advance_clock(50.0) == 100.0


def test_privileges_are_listed_with_their_schema_and_availability(tmp_path):
    home = TrustHome(tmp_path)
    manager = HostPrivilegeManager(home.home, home.permissions, home.audit, desktop=Desktop((), {}))
    listed = {item["id"]: item["available"] for item in manager.list()}
    assert listed == {
        "clipboard.write": False, "container.restart_self": False, "file.export": True, "notify": False, "open_url": False,
    }  # fmt: skip
    json.dumps(manager.list())


@pytest.mark.parametrize(
    ("path", "head", "codes"),
    [
        ("a.py", b"x = 1\n", []),
        ("a.py", "\ufeffx = 1\n".encode(), []),
        ("a.py", "x = '\u200b'\n".encode(), ["invisible_text"]),
        ("a.py", "x = '\U000e0041'\n".encode(), ["invisible_text"]),
        ("a.py", b"\xff\xfe", ["unscannable"]),
        ("a.bin", b"\xff\xfe", []),
        ("run", b"\x7fELF\x02", ["native_code"]),
        ("a.pyd", b"", ["native_code"]),
        ("a.pyc", b"\0", ["bytecode"]),
        ("a.zip", b"PK\x03\x04", ["unscannable"]),
        ("x.pth", b"import os", ["startup_hook"]),
        ("lib/sitecustomize.py", b"", ["startup_hook"]),
    ],
)
def test_findings(path, head, codes):
    assert [finding.code for finding in inspect(path, head, len(head))] == codes


def _is_a_block(first: int, count: int) -> bool:
    block, offset = divmod(first - PREFERRED_FIRST, COUNT)
    return count == COUNT and offset == 0 and 0 <= block < BLOCKS


def test_looking_at_a_one_use_edge_spends_nothing_and_one_call_does(tmp_path):
    home = TrustHome(tmp_path)
    home.add(uses=["service.beta"])
    home.approve(permissions=[{"type": "interface.call", "keys": ["service.beta"], "mode": "once"}])
    live = home.permissions.rights_source("alpha")()
    assert [live.may_see("service.beta") for _ in range(3)] == [True] * 3
    assert (live.may_call("service.beta"), live.may_see("service.beta"), live.may_call("service.beta")) == (True, False, False)
    [usage] = home.permissions.used_versus_granted("alpha")
    assert (usage.uses, usage.ended) == (1, True)
    home.reopen()
    home.approvals.scan()
    assert not home.permissions.rights_source("alpha")().may_see("service.beta"), "known before anybody tries"


def test_an_edge_until_a_time_ends_with_the_clock(tmp_path):
    home = TrustHome(tmp_path)
    home.add(uses=["service.beta"])
    home.approve(permissions=["interface.call"], until=home.clock.now + 60)
    live = home.permissions.rights_source("alpha")()
    home.clock.advance(59)
    assert (live.may_see("service.beta"), live.may_call("service.beta")) == (True, True)
    home.clock.advance(1)
    assert (live.may_see("service.beta"), live.may_call("service.beta")) == (False, False)
    home.clock.now -= 3600
    assert not live.may_call("service.beta"), "setting the clock back extends nothing"
    assert [usage.ended for usage in home.permissions.used_versus_granted("alpha")] == [True]


def test_uses_are_counted_by_item_and_outlast_a_decision(tmp_path):
    home = TrustHome(tmp_path)
    home.add(uses=["service.beta", "service.gamma"])
    home.approve()
    live = home.permissions.rights_source("alpha")()
    assert [live.may_call("service.beta") for _ in range(3)] == [True] * 3
    assert live.may_call("service.gamma")
    home.approvals.narrow("alpha", permissions=[{"type": "interface.call", "keys": ["service.beta"]}], actor="t")
    assert live.may_call("service.beta")
    assert not live.may_call("service.gamma"), "although it was, a moment ago"
    [usage] = home.permissions.used_versus_granted("alpha")
    assert {item: uses.count for item, uses in usage.items.items()} == {"service.beta": 4}
    home.permissions.forget("alpha")
    assert home.permissions.used_versus_granted("alpha")[0].uses == 4
    home.permissions.forget("alpha", uses=True)
    assert home.permissions.used_versus_granted("alpha")[0].uses == 0
    assert live.may_call("service.beta")
    assert home.permissions.used_versus_granted("alpha")[0].uses == 1, "counted anew, and not where it was before"


def test_what_was_used_is_known_after_a_restart_and_allows_nothing(tmp_path):
    home = TrustHome(tmp_path)
    home.approved(permissions=[{"type": "userdata.read", "paths": ["shared/a", "shared/b"], "reason": "r"}])
    begun = home.permissions.counted_since
    assert isinstance(home.permissions.check("alpha", "userdata.read", path="shared/a"), Allow)
    home.permissions.keep_uses()
    home.clock.advance(1000)
    home.reopen().scan()

    def counts():
        return {item: uses.count for item, uses in home.permissions.used_versus_granted("alpha")[0].items.items()}

    assert counts() == {"shared/a": 1, "shared/b": 0}
    assert home.permissions.counted_since == begun
    home.approvals.grants.keyring.rotate()
    home.reopen().scan()
    assert counts() == {"shared/a": 1, "shared/b": 0}
    file = home.secrets / "usage.json"
    for damage in (file.read_bytes().replace(b"shared/a", b"shared/b"), b"", b"{}", file.read_bytes()[:40]):
        file.write_bytes(damage)
        home.reopen().scan()
        assert counts() == {"shared/a": 0, "shared/b": 0}
        assert home.permissions.counted_since == home.clock.now
    home.approvals.narrow("alpha", permissions=[], actor="tester")
    assert isinstance(home.permissions.check("alpha", "userdata.read", path="shared/a"), Deny)
    home.permissions.check("alpha", "userdata.read", path="packs/alpha/x")
    home.permissions.forget("alpha", uses=True)
    home.permissions.keep_uses()
    assert home.reopen().permissions.used_versus_granted("alpha") == []


class Quiet:
    def __init__(self):
        self.shown = []

    def notify(self, pack_id, title, text):
        self.shown.append((pack_id, title, text))

    def restart(self, pack_id):
        self.shown.append((pack_id, "restart", ""))


def test_a_packs_own_operations_are_rated_and_its_refusals_counted(tmp_path):
    home, effects = TrustHome(tmp_path), Quiet()
    home.add(permissions=[{"type": "host.notify", "reason": "r"}])
    home.approve()
    manager = HostPrivilegeManager(
        home.home, home.permissions, home.audit, effects=effects, clock=home.clock, monotonic=home.clock.monotonic
    )

    def execute(**who):
        try:
            manager.execute("alpha", "notify", {"title": "t"}, **who)
        except DeniedError as error:
            return error.code
        return "done"

    assert {execute() for _ in range(100)} == {"privilege_denied", "too_often"}
    refusals = [r for r in home.audit.tail(200) if r["event"] == "privilege.refused"]
    assert len(refusals) == 1, "a flood of refusals is one record a minute"
    manager.grant("alpha", "notify", actor="operator")
    assert execute() == "too_often"
    assert execute(actor="operator") == "done", "the operator is not rated"
    home.clock.advance(60)
    assert {execute() for _ in range(5)} == {"done"}
    assert execute() == "too_often", "a person notices each of them"
    assert len(effects.shown) == 6
    [grant] = next(item for item in manager.list() if item["id"] == "notify")["grants"]
    assert (grant["pack_id"], grant["actor"], grant["until"]) == ("alpha", "operator", None)
