"""Whatever Packs declare: a total, stable, honest order."""

from hypothesis import given
from hypothesis import strategies as st

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.ecosystem.versions import in_range
from core_runtime.rules.component_work import units_of
from core_runtime.rules.resolve import MORE, TOLD_STEPS, Unit, resolve

KEYS = st.sampled_from([f"k{i}" for i in range(6)])
UNITS = st.lists(
    st.builds(
        Unit,
        full_id=st.from_regex(r"[a-d]:s:[a-f]", fullmatch=True),
        pack_id=st.just("p"),
        provides=st.frozensets(KEYS, max_size=3),
        requires=st.frozensets(KEYS, max_size=3),
        library=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda unit: unit.full_id,
)


@given(UNITS, st.frozensets(KEYS, max_size=2))
def test_every_unit_is_in_one_batch_or_blocked(units, available):
    found = resolve(units, available=available)
    ids = [unit.full_id for unit in found.order()] + [blocked.unit.full_id for blocked in found.blocked]
    assert sorted(ids) == sorted(unit.full_id for unit in units)


@given(UNITS, st.frozensets(KEYS, max_size=2))
def test_what_starts_finds_what_it_requires(units, available):
    present = set(available)
    for batch in resolve(units, available=available).batches:
        assert all(unit.requires <= present for unit in batch)
        present.update(key for unit in batch for key in unit.provides)


@given(UNITS, st.frozensets(KEYS, max_size=2))
def test_what_is_blocked_could_not_start(units, available):
    found = resolve(units, available=available)
    present = set(available).union(*(unit.provides for unit in found.order()))
    for blocked in found.blocked:
        assert not blocked.unit.requires <= present
        assert blocked.key in blocked.unit.requires - present
        assert blocked.path[0] == blocked.unit.full_id
        assert blocked.reason.startswith(f"waiting for {blocked.key}")


@given(UNITS, st.randoms())
def test_the_order_found_does_not_matter(units, random):
    shuffled = list(units)
    random.shuffle(shuffled)
    assert resolve(shuffled) == resolve(units)


@given(UNITS)
def test_more_keys_never_block_more(units):
    fewer = {blocked.unit.full_id for blocked in resolve(units).blocked}
    more = {blocked.unit.full_id for blocked in resolve(units, available=["k0", "k1"]).blocked}
    assert more <= fewer


PACKS = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                lambda name, version, needs, kind: PackMetadata(
                    name, f"local:{name}", version, "", pack_type=kind, dependencies=needs
                ),
                st.just(name),
                st.sampled_from(["1.0.0", "1.4.0", "2.0.0"]),
                st.dictionaries(st.sampled_from("abcdefghz"), st.sampled_from(["*", "^1", ">=1.2,<2", "^2"]), max_size=3),
                st.sampled_from(["pack", "library"]),
            )
            for name in names
        )
    )
)


@given(PACKS)
def test_packs_start_after_what_they_depend_on_and_only_what_can_not_is_left(packs):
    found = resolve([unit for pack in packs for unit in units_of(pack)])
    known = {pack.pack_id: pack for pack in packs}
    serving: dict[str, str] = {}
    for unit in found.order():
        for name, wanted in known[unit.pack_id].dependencies.items():
            assert in_range(serving[name], wanted)
        serving[unit.pack_id] = known[unit.pack_id].version
    for blocked in found.blocked:
        needs = known[blocked.unit.pack_id].dependencies
        assert any(name not in serving or not in_range(serving[name], wanted) for name, wanted in needs.items())
        assert blocked.reason.startswith("waiting for Pack ")
        assert len(blocked.reason) < 1_000


def shortest(start, units, present):
    """Steps of the shortest way from a blocked unit to a key that nobody would provide; None where every way circles."""
    seen, edge, steps = {start.full_id}, [start], 1
    while edge:
        following = []
        for unit in edge:
            for key in unit.unmet(dict.fromkeys(present, ("",))):
                providers = [other for other in units if key in other.provides]
                if not providers:
                    return steps
                following += [other for other in providers if other.full_id not in seen]
                seen.update(other.full_id for other in providers)
        edge, steps = following, steps + 1
    return None


def smallest_circle(start, units, present):
    """Steps from a unit back to it; None where it is on no circle."""
    seen, edge, steps = set(), [start], 1
    while edge:
        wanted = {key for unit in edge for key in unit.requires - present}
        if wanted & start.provides:
            return steps
        edge = [other for other in units if wanted & other.provides and other.full_id not in seen]
        seen.update(other.full_id for other in edge)
        steps += 1
    return None


@given(UNITS, st.frozensets(KEYS, max_size=2))
def test_the_shortest_way_is_told(units, available):
    found = resolve(units, available=available)
    present = set(available).union(*(unit.provides for unit in found.order()))
    left = [blocked.unit for blocked in found.blocked]
    for blocked in found.blocked:
        steps = shortest(blocked.unit, left, present)
        assert blocked.cycle == (steps is None)
        if steps is not None and steps <= TOLD_STEPS:
            assert len(blocked.path) == 2 * steps
        circle = smallest_circle(blocked.unit, left, present)
        if blocked.cycle and circle is not None and circle <= TOLD_STEPS:
            assert blocked.path[0] == blocked.path[-1]
            assert len(blocked.path) == 2 * circle + 1


@given(UNITS, st.frozensets(KEYS, max_size=2))
def test_every_step_that_is_told_is_one(units, available):
    for blocked in resolve(units, available=available).blocked:
        by_id = {unit.full_id: unit for unit in units}
        path = blocked.path
        for index in range(0, len(path) - 1, 2):
            if path[index + 1] == MORE:
                continue
            assert path[index + 1] in by_id[path[index]].requires
            if index + 2 < len(path):
                assert path[index + 1] in by_id[path[index + 2]].provides
