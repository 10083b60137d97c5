"""Order of components and the sentences for those that can't start."""

import sys
from functools import partial

import pytest

from backend_core.ecosystem.spec.models import PackMetadata
from core_runtime.rules.component_work import pack_key, pack_of, units_of
from core_runtime.rules.resolve import MORE, TOLD_STEPS, Unit, resolve, runnable


def unit(name: str, provides: str = "", requires: str = "", *, library: bool = False) -> Unit:
    return Unit(name, name.partition(":")[0], frozenset(provides.split()), frozenset(requires.split()), library)


def batches(*units, **options):
    return [[u.full_id for u in batch] for batch in resolve(units, **options).batches]


def reasons(*units, **options):
    return {b.unit.full_id: b.reason for b in resolve(units, **options).blocked}


def test_providers_come_first_across_packs():
    assert batches(unit("c:s:c", "", "b"), unit("b:s:b", "b", "a"), unit("a:s:a", "a")) == [
        ["a:s:a"],
        ["b:s:b"],
        ["c:s:c"],
    ]


def test_independent_ones_share_a_batch_in_a_fixed_order():
    assert batches(unit("b:s:b"), unit("a:s:a")) == [["a:s:a", "b:s:b"]]


def test_available_keys_count():
    assert batches(unit("a:s:a", "", "k"), available=["k"]) == [["a:s:a"]]


def test_libraries_start_before_the_rest():
    assert batches(unit("a:s:a"), unit("z:l:z", library=True)) == [["z:l:z"], ["a:s:a"]]
    assert [u.full_id for u in runnable([unit("a:s:a"), unit("z:l:z", library=True)], [])] == ["z:l:z"]


def test_a_library_that_needs_a_pack_waits_for_it():
    assert batches(unit("z:l:z", "", "k", library=True), unit("a:s:a", "k")) == [["a:s:a"], ["z:l:z"]]


def test_one_of_several_providers_is_enough():
    assert batches(unit("a:s:a", "k", "never"), unit("b:s:b", "k"), unit("c:s:c", "", "k")) == [["b:s:b"], ["c:s:c"]]


def test_the_missing_key_is_named_with_the_way_to_it():
    found = reasons(unit("a:s:a", "", "k1"), unit("b:s:b", "k1", "k2"), unit("c:s:c", "k2", "k3"))
    assert found["a:s:a"] == (
        "waiting for k1, which b:s:b provides, itself waiting for k2, which c:s:c provides, itself waiting for k3, "
        "which nothing that runs or is approved provides"
    )
    assert found["c:s:c"] == "waiting for k3, which nothing that runs or is approved provides"


def test_who_else_could_provide_it_is_told():
    found = reasons(unit("a:s:a", "", "k"), elsewhere={"k": "which the Pack 'store' would provide, but it is pending"})
    assert found["a:s:a"] == "waiting for k, which the Pack 'store' would provide, but it is pending"


def test_cycles_are_explained():
    found = resolve([unit("a:s:a", "x", "y"), unit("b:s:b", "y", "x"), unit("s:s:s", "z", "z")]).blocked
    by_id = {b.unit.full_id: b for b in found}
    assert by_id["a:s:a"].cycle
    assert by_id["a:s:a"].path == ("a:s:a", "y", "b:s:b", "x", "a:s:a")
    assert by_id["a:s:a"].reason.endswith("which a:s:a provides: they wait for each other, so none can start first")
    assert by_id["s:s:s"].reason == "waiting for z, which only it itself would provide"


def test_who_waits_for_a_circle_is_told_of_it():
    found = reasons(
        unit("a:s:a", "k3", "k0"), unit("b:s:b", "k2 k0", "k3"), unit("w:s:w", "", "k2 k3 k0"), available=[]
    )
    assert found["w:s:w"] == (
        "waiting for k0, which b:s:b provides, itself waiting for k3, which a:s:a provides, itself waiting for k0, "
        "which b:s:b provides: they wait for each other, so none can start first"
    )


def test_a_missing_key_is_told_before_a_cycle():
    found = reasons(unit("a:s:a", "x", "y gone"), unit("b:s:b", "y", "x"))
    assert found["b:s:b"].endswith("itself waiting for gone, which nothing that runs or is approved provides")


def versioned(name: str, provides: dict | None = None, requires: dict | None = None) -> Unit:
    """``provides``: key → version or "", ``requires``: key → range or ""."""
    given, needed = provides or {}, requires or {}
    return Unit(
        name, name.partition(":")[0], frozenset(given), frozenset(needed),
        versions=frozenset((k, v) for k, v in given.items() if v), ranges=frozenset((k, r) for k, r in needed.items() if r),
    )  # fmt: skip


def test_a_provider_in_the_range_comes_first_and_one_out_of_it_does_not_count():
    a = versioned("a:s:a", {"k": "1.4.2"})
    b = versioned("b:s:b", {"k": "2.0.0"})
    assert batches(a, b, versioned("c:s:c", requires={"k": ">=1.2,<2"})) == [["a:s:a", "b:s:b"], ["c:s:c"]]
    assert reasons(b, versioned("c:s:c", requires={"k": "^1.2"})) == {
        "c:s:c": "waiting for k ^1.2, but what provides 'k' states version 2.0.0"
    }


def test_without_a_stated_version_only_any_range_is_met():
    a = versioned("a:s:a", {"k": ""})
    assert batches(a, versioned("c:s:c", requires={"k": "*"})) == [["a:s:a"], ["c:s:c"]]
    found = reasons(a, versioned("c:s:c", requires={"k": ">=0.0.1"}))
    assert found == {"c:s:c": "waiting for k >=0.0.1, but what provides 'k' states no version of it"}


def test_available_versions_count():
    c = versioned("c:s:c", requires={"k": "^2"})
    assert batches(c, available={"k": ["2.3.0"]}) == [["c:s:c"]]
    assert reasons(c, available={"k": ["1.0.0"]})["c:s:c"] == (
        "waiting for k ^2, but what provides 'k' states version 1.0.0"
    )


def test_the_shortest_way_to_a_version_that_is_not_there_is_told():
    found = reasons(
        versioned("a:s:a", {"x": "3.1.0"}, {"y": ""}),
        versioned("b:s:b", {"y": "1.0.0"}, {"z": "~1.2"}),
        versioned("c:s:c", {"z": "1.3.0"}, {"w": ""}),
        versioned("d:s:d", requires={"x": ">=3"}),
    )
    assert found["d:s:d"] == (
        "waiting for x >=3, which a:s:a provides, itself waiting for y, which b:s:b provides, itself waiting for z ~1.2, "
        "but the Pack 'c' states version 1.3.0"
    )


def test_a_circle_needs_versions_that_fit():
    a = versioned("a:s:a", {"x": "1.0.0"}, {"y": "^1"})
    assert resolve([a, versioned("b:s:b", {"y": "1.0.0"}, {"x": "^1"})]).blocked[0].cycle
    blocked = {b.unit.full_id: b for b in resolve([a, versioned("b:s:b", {"y": "2.0.0"}, {"x": "^1"})]).blocked}
    assert not blocked["a:s:a"].cycle
    assert blocked["a:s:a"].reason == "waiting for y ^1, but the Pack 'b' states version 2.0.0"


def chain(count: int) -> list[Unit]:
    """Each needs what the next one provides; nothing provides the last key."""
    return [unit(f"p{n:04}:s:m", f"k{n}", f"k{n + 1}") for n in range(count)]


def test_of_a_long_way_the_first_and_the_last_steps_are_told():
    found = resolve(chain(40)).blocked[0]
    assert found.path[:3] == ("p0000:s:m", "k1", "p0001:s:m")
    assert found.path[-3:] == (MORE, "p0039:s:m", "k40")
    assert len(found.path) == 2 * TOLD_STEPS + 2
    assert found.reason.endswith(
        "which p0007:s:m provides, itself waiting for others, the last of which, p0039:s:m, waits for k40, "
        "which nothing that runs or is approved provides"
    )


def test_of_a_large_circle_the_first_steps_are_told():
    found = resolve([*chain(40), unit("p0040:s:m", "k40", "k0")]).blocked[0]
    assert found.cycle
    assert found.path[-1] == MORE
    assert found.reason.endswith("itself waiting for others: they wait for each other, so none can start first")


def test_the_smallest_circle_is_told():
    found = reasons(
        unit("a:s:a", "a", "b c"), unit("b:s:b", "b", "d"), unit("d:s:d", "d", "a"), unit("c:s:c", "c", "a")
    )
    assert found["a:s:a"].startswith("waiting for c, which c:s:c provides, itself waiting for a, which a:s:a provides:")


def functions_called(work) -> int:
    """How much is done, whatever the machine's speed."""
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "shape",
    [
        lambda n: [*chain(n), unit(f"p{n:04}:s:m", f"k{n}")],
        chain,
        lambda n: [*chain(n), unit("z:s:z", f"k{n}", "k0")],
        lambda n: [unit(f"p{i:04}:s:m", "same", "same") for i in range(n)],
        lambda n: [unit(f"p{i:04}:s:m", requires="gone") for i in range(n)],
    ],
    ids=["starts in a row", "waits in a row", "one circle", "all provide what all need", "all lack one key"],
)
def test_the_work_grows_with_the_units_and_not_with_their_square(shape):
    few, many = (functions_called(partial(resolve, shape(count))) for count in (300, 1_200))
    assert many < 8 * few


def test_what_a_pack_depends_on_is_a_key_that_the_other_pack_provides_in_its_version():
    def pack(pack_id, version, **needs):
        return PackMetadata(pack_id, f"local:{pack_id}", version, "", dependencies=needs)

    def started(*packs):
        return [u.full_id for u in resolve([u for p in packs for u in units_of(p)]).order()]

    shared, app = pack("shared", "2.3.0"), pack("app", "1.0.0", shared="^2.1")
    assert started(app, shared) == ["shared", "app"]
    assert started(app) == []
    assert started(pack("app", "1.0.0", shared="^3"), shared) == ["shared"]
    assert pack_of(pack_key("shared")) == "shared"
    assert pack_of("shared.echo") == ""
