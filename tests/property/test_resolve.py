"""Whatever Packs declare: a total, stable, honest order."""

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.resolve import Unit, resolve

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
