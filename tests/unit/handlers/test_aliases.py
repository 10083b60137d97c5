"""Other names for interfaces: made by the operator alone, in force whole or not at all, written before they count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend_core.ecosystem.aliases import FILE, LAST, load_aliases
from backend_core.ecosystem.spec.validate import Kind, check, schema
from backend_core.errors import AuthorError, ConflictError, HostError, NotFoundError, RequestError, RumiError
from backend_core.parsing import load_json
from core_runtime.diagnostics import Issue
from core_runtime.function_alias import FunctionAlias
from core_runtime.handlers import aliases, interfaces
from core_runtime.handlers.host import Host
from core_runtime.rules.aliases import MAX_ALIASES, MAX_NAME_CHARS, difference, name_fault
from tests.support.hosts import opened_host

ME = {"actor": "tester"}


def with_host(home: Path, story: Callable[[Host], Awaitable[None]]) -> None:
    async def told() -> None:
        host = await opened_host(home)
        try:
            await story(host)
        finally:
            await host.close()

    asyncio.run(told())


def write(host: Host, mappings: Mapping[str, Any]) -> None:
    aliases.file_of(host).write_text(json.dumps({"version": "1.0", "aliases": mappings}))


def recorded(host: Host) -> list[Mapping[str, Any]]:
    return [record for record in host.audit.tail(100) if record["event"] == "alias.changed"]


def test_a_name_is_given_written_recorded_and_taken_away(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        heard: list[Any] = []
        host.events.subscribe("alias.changed", heard.append)
        host.registry.register("db.get", lambda _args, _ctx: 1)
        row = {"alias": "store.get", "key": "db.get", "available": True, "hides": None}
        assert await aliases.put(host, "store.get", "db.get", **ME) == [row]
        assert load_aliases(aliases.file_of(host)) == {"db.get": ["store.get"]}
        assert aliases.file_of(host).stat().st_mode & 0o777 == 0o600
        assert (aliases.meant(host, "store.get"), aliases.meant(host, "other")) == ("db.get", "other")
        assert await aliases.put(host, "store.get", "db.get", **ME) == [row], "the same again is no change"
        assert await aliases.remove(host, "store.get", **ME) == []
        assert aliases.meant(host, "store.get") == "store.get"
        assert load_aliases(aliases.file_of(host)) == {}
        assert await aliases.put(host, "db.get2", "store.get", **ME), "what was a key of aliases is free again"
        told = [(record["added"], record["removed"], record["actor"]) for record in recorded(host)]
        assert told == [(["store.get = db.get"], [], "tester"), ([], ["store.get = db.get"], "tester"), (["db.get2 = store.get"], [], "tester")]
        assert [(one["added"], one["removed"], one["more"]) for one in heard] == [(added, removed, 0) for added, removed, _ in told]

    with_host(tmp_path, story)


def test_names_that_can_not_be_given_change_nothing(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        host.registry.add("taken.key", 1, pack="shop")
        host.registry.set_owner("owned.key", "stopped")
        await aliases.put(host, "store.get", "db.get", **ME)
        kept = aliases.file_of(host).read_bytes()
        refusals: list[tuple[str, str, type[RumiError], str]] = [
            ("store.get", "other.get", ConflictError, "already means"),
            ("db.get", "other.get", ConflictError, "already means"),
            ("x.get", "store.get", ConflictError, "Register the aliases on that name"),
            ("taken.key", "db.get", ConflictError, "belongs to 'shop'"),
            ("owned.key", "db.get", ConflictError, "belongs to 'stopped'"),
            ("same.key", "same.key", RequestError, "would mean itself"),
            ("flow.answer", "db.get", RequestError, "a meaning to the host"),
            ("flow.hooks.before_step", "db.get", RequestError, "a meaning to the host"),
            ("x.get", "flow.construct.each", RequestError, "a meaning to the host"),
            ("io.http.routes", "db.get", RequestError, "a meaning to the host"),
            ("x.get", "kernel:packs.scan", RequestError, "no interface key"),
            ("x..get", "db.get", RequestError, "no interface key"),
        ]
        for alias, key, kind, said in refusals:
            with pytest.raises(kind) as caught:
                await aliases.put(host, alias, key, **ME)
            assert said in f"{caught.value.detail} {caught.value.hint}", (alias, key, caught.value)
            assert caught.value.code in {"alias_conflict", "alias_invalid"}
            assert caught.value.hint
        assert name_fault("flows.run") == "has a meaning to the host itself"
        with pytest.raises(NotFoundError):
            await aliases.remove(host, "no.alias", **ME)
        assert aliases.file_of(host).read_bytes() == kept
        assert host.aliases.list_all_mappings() == {"db.get": ["store.get"]}
        assert len(recorded(host)) == 1

    with_host(tmp_path, story)


BROKEN = [
    "{",
    '{"version": "1.0"}',
    '{"version": "2.0", "aliases": {}}',
    '{"version": "1.0", "aliases": {"a.b": "c.d"}}',
    '{"version": "1.0", "aliases": {"a.b": ["c.d"], "a.b": []}}',
    '{"version": "1.0", "aliases": {"a.b": ["x"], "c.d": ["x"]}}',
    '{"version": "1.0", "aliases": {"a.b": ["c.d"], "c.d": ["e.f"]}}',
    '{"version": "1.0", "aliases": {"good.key": ["g"], "kernel:packs.scan": ["x"]}}',
    '{"version": "1.0", "aliases": {"good.key": ["g"], "flow.modifier": ["x"]}}',
    json.dumps({"version": "1.0", "aliases": {"a": [f"x{n}" for n in range(600)], "b": [f"y{n}" for n in range(600)]}}),
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_that_can_not_be_used_is_told_and_nothing_of_it_counts(tmp_path: Path, content: str) -> None:
    async def story(host: Host) -> None:
        await aliases.put(host, "store.get", "db.get", **ME)
        aliases.file_of(host).write_text(content)
        for change in (aliases.adopt(host, **ME), aliases.put(host, "n.x", "n.y", **ME), aliases.remove(host, "store.get", **ME)):
            with pytest.raises(HostError) as caught:
                await change
            assert caught.value.code == "aliases_json_invalid"
            assert caught.value.detail
            assert "aliases.json" in caught.value.hint
        assert host.aliases.list_all_mappings() == {"db.get": ["store.get"]}, "what was in force stays"
        assert aliases.file_of(host).read_text() == content, "and what the operator wrote as well"
        await aliases.open_aliases(host)
        [issue] = [one for one in host.diagnostics.issues() if one.code == "aliases_json_invalid"]
        assert (issue.subject, issue.severity) == (FILE, "error")
        aliases.file_of(host).unlink()
        await aliases.adopt(host, **ME)
        assert not [one for one in host.diagnostics.issues() if one.code == "aliases_json_invalid"]

    with_host(tmp_path, story)


UNUSABLE = '{"version": "1.0", "aliases": {"db.get": [7]}}'


def unusable(host: Host) -> Issue:
    [issue] = [one for one in host.diagnostics.issues() if one.code == "aliases_json_invalid"]
    return issue


def test_a_start_that_can_not_use_the_file_keeps_what_was_in_force(tmp_path: Path) -> None:
    file, last = tmp_path / "user_data" / FILE, tmp_path / "user_data" / LAST

    async def first(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {}
        assert not last.exists(), "nothing to keep"
        write(host, {"db.get": ["store.get", "old.get"]})

    async def started(host: Host) -> None:
        assert aliases.meant(host, "store.get") == "db.get"
        assert last.stat().st_mode & 0o777 == 0o600
        await aliases.remove(host, "old.get", **ME)

    async def broken(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {"db.get": ["store.get"]}, "and not what was taken away"
        assert aliases.meant(host, "store.get") == "db.get"
        issue = unusable(host)
        for told in ("an interface key", "aliases.json:1", "What was in force before stays so (aliases: 1)."):
            assert told in issue.detail
        assert "rumi doctor --fix" in issue.hint
        with pytest.raises(HostError):
            await aliases.put(host, "n.x", "n.y", **ME)
        assert file.read_text() == UNUSABLE, "what the operator wrote is his to mend"

    async def mended(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {"db.new": ["store.get"]}
        assert not [one for one in host.diagnostics.issues() if one.code == "aliases_json_invalid"]
        assert load_aliases(last) == {"db.new": ["store.get"]}

    async def removed(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {}, "a file that is not there says that there are none"
        assert load_aliases(last) == {}

    with_host(tmp_path, first)
    with_host(tmp_path, started)
    file.write_text(UNUSABLE)
    with_host(tmp_path, broken)
    with_host(tmp_path, broken)  # a second start keeps them as well
    file.write_text('{"version": "1.0", "aliases": {"db.new": ["store.get"]}}')
    with_host(tmp_path, mended)
    file.unlink()
    with_host(tmp_path, removed)


@pytest.mark.parametrize("kept", [None, "{", UNUSABLE, '{"version": "1.0", "aliases": {"flow.a": ["x"]}}'])
def test_without_anything_kept_there_are_no_aliases_until_it_is_mended(tmp_path: Path, kept: str | None) -> None:
    (tmp_path / "user_data").mkdir()
    (tmp_path / "user_data" / FILE).write_text(UNUSABLE)
    if kept is not None:
        (tmp_path / "user_data" / LAST).write_text(kept)

    async def story(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {}
        assert unusable(host).detail.endswith("No alias is in force.")
        write(host, {"db.get": ["store.get"]})
        await aliases.adopt(host, **ME)
        assert load_aliases(tmp_path / "user_data" / LAST) == {"db.get": ["store.get"]}

    with_host(tmp_path, story)


def test_a_file_that_can_not_even_be_read_is_one_that_can_not_be_used(tmp_path: Path) -> None:
    file = tmp_path / "user_data" / FILE

    async def first(host: Host) -> None:
        await aliases.put(host, "store.get", "db.get", **ME)

    async def story(host: Host) -> None:
        assert host.aliases.list_all_mappings() == {"db.get": ["store.get"]}
        assert unusable(host).detail.endswith("regular file. What was in force before stays so (aliases: 1).")
        assert file.is_dir()

    with_host(tmp_path, first)
    file.unlink()
    file.mkdir()
    with_host(tmp_path, story)


def test_what_can_not_be_kept_does_not_leave_what_was_before(tmp_path: Path) -> None:
    """An alias that was taken away must not be in force again after a start; the disk is full here."""
    import resource

    async def story(host: Host) -> None:
        last = tmp_path / "user_data" / LAST
        await aliases.put(host, "store.get", "db.get", **ME)
        assert last.exists()
        write(host, {"db.put": ["store.put"]})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            await aliases.open_aliases(host)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert host.aliases.list_all_mappings() == {"db.put": ["store.put"]}, "it counts all the same"
        assert not last.exists()

    with_host(tmp_path, story)


def test_a_call_that_reaches_nobody_tells_that_the_file_may_be_why(tmp_path: Path) -> None:
    async def call(host: Host, name: str) -> NotFoundError:
        key = aliases.meant(host, name)
        with pytest.raises(NotFoundError) as caught, aliases.told_with(host, name, key):
            await interfaces.call(host, key)
        assert (caught.value.code, caught.value.fields["key"]) == ("missing", key)
        return caught.value

    async def story(host: Host) -> None:
        await aliases.put(host, "store.get", "db.get", **ME)
        plain = await call(host, "new.get")
        assert "aliases.json" not in plain.hint
        aliases.file_of(host).write_text(UNUSABLE)
        await aliases.open_aliases(host)
        told = await call(host, "new.get")
        assert told.hint == f"{plain.hint} aliases.json can't be used, so an alias that was new in it is not in force: rumi doctor"
        assert told.detail == plain.detail
        both = await call(host, "store.get")
        assert both.detail.startswith("'store.get' means it.")
        assert both.hint == told.hint
        write(host, {"db.get": ["store.get"]})
        await aliases.adopt(host, **ME)
        assert (await call(host, "new.get")).hint == plain.hint

    with_host(tmp_path, story)


def test_a_change_takes_over_what_the_operator_wrote_beside_it(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        await aliases.put(host, "one", "db.get", **ME)
        write(host, {"db.get": ["two", "three"]})
        assert await aliases.remove(host, "one", **ME), "gone from the file, and now from what is in force"
        await aliases.remove(host, "two", **ME)
        assert host.aliases.list_all_mappings() == {"db.get": ["three"]}
        assert [(one["added"], one["removed"]) for one in recorded(host)][1:] == [
            (["three = db.get", "two = db.get"], ["one = db.get"]), ([], ["two = db.get"]),
        ]  # fmt: skip
        write(host, {"db.get": [f"n{number}" for number in range(150)]})
        await aliases.adopt(host, **ME)
        assert (len(recorded(host)[-1]["added"]), recorded(host)[-1]["more"]) == (100, 50)

    with_host(tmp_path, story)


def test_changes_at_once_lose_none_and_there_are_not_too_many(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        await asyncio.gather(*(aliases.put(host, f"n{number}", "db.get", **ME) for number in range(20)))
        assert len(load_aliases(aliases.file_of(host))["db.get"]) == 20
        write(host, {"db.get": [f"n{number}" for number in range(MAX_ALIASES)]})
        with pytest.raises(RequestError) as caught:
            await aliases.put(host, "one.more", "other.get", **ME)
        assert "at most 1000, found 1001" in caught.value.detail

    with_host(tmp_path, story)


def test_the_limits_are_those_of_the_schema() -> None:
    form = schema(Kind.ALIASES)
    lists = form["properties"]["aliases"]
    assert (lists["maxProperties"], lists["additionalProperties"]["maxItems"]) == (MAX_ALIASES, MAX_ALIASES)
    assert form["$defs"]["key"]["maxLength"] == MAX_NAME_CHARS


# -- the pure part ----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d.e", "f-g", "h_i"])
MAPPINGS = st.dictionaries(NAMES, st.lists(NAMES, max_size=4), max_size=5)


@given(MAPPINGS)
def test_a_table_has_one_meaning_for_each_name_and_no_chains(mappings: dict[str, list[str]]) -> None:
    try:
        table = FunctionAlias.of(mappings)
    except ConflictError:
        meanings: dict[str, set[str]] = {}
        for key, names in mappings.items():
            for name in {key, *names}:
                meanings.setdefault(name, set()).add(key)
        assert any(len(keys) > 1 for keys in meanings.values()), "refused though every name means one key"
        return
    for key, names in mappings.items():
        assert all(table.resolve(name) == key for name in (key, *names))
        assert set(table.find_all(key)) == {key, *names}
    for name in ("a", "b", "c", "d.e", "f-g", "h_i"):
        assert table.resolve(table.resolve(name)) == table.resolve(name)
    assert FunctionAlias.of(table.list_all_mappings()).list_all_mappings() == table.list_all_mappings()


@given(MAPPINGS, MAPPINGS)
def test_a_difference_leads_from_one_table_to_the_other(before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    told = difference(before, after)
    old = {f"{name} = {key}" for key, names in before.items() for name in names}
    assert (old - set(told["removed"])) | set(told["added"]) == {f"{name} = {key}" for key, names in after.items() for name in names}
    assert not set(told["added"]) & set(told["removed"])


@given(st.text(max_size=260) | st.from_regex(r"[a-z0-9_.-]{1,12}(\n)?", fullmatch=True) | st.just("n" * MAX_NAME_CHARS))
def test_a_name_that_is_taken_is_one_in_the_file_and_of_no_meaning_to_the_host(name: str) -> None:
    data = json.dumps({"version": "1.0", "aliases": {name: []}}).encode()
    try:
        check(Kind.ALIASES, load_json(data, source=FILE))
    except AuthorError:
        formed = False
    else:
        formed = True
    fault = name_fault(name)
    assert (not fault) is (formed and not name.startswith("flow."))
    assert not formed or fault in {"", "has a meaning to the host itself"}
