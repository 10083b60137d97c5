import pytest

from rumi_setup.core import pins, places, relock

GOOD = "a" * 64


def test_reads_name_version_marker_and_all_hashes() -> None:
    text = f"# why\nUvLoop==0.1 ; sys_platform != 'win32' \\\n    --hash=sha256:{GOOD} \\\n    --hash=sha256:{'b' * 64}\n    # via x\n"
    (pin,) = pins.parse(text)
    assert (pin.name, pin.version, pin.marker) == ("uvloop", "0.1", "sys_platform != 'win32'")
    assert pin.sha256 == {GOOD, "b" * 64}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("click==8.0\n", "no hash"),
        (f"click>=8.0 --hash=sha256:{GOOD}\n", "expected NAME==VERSION"),
        (f"click @ https://example.org/c.whl --hash=sha256:{GOOD}\n", "no addresses"),
        ("--index-url https://example.org/\n", "no options"),
        ("--extra-index-url=x\n", "no options"),
        (f"click==8.0 --hash=md5:{GOOD}\n", "no hash"),
    ],
)
def test_refuses_what_is_no_hashed_pin(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        pins.parse(text)


@pytest.mark.parametrize("lock", [*places.LOCK_NAMES, "uv"])
def test_the_locks_of_the_project_are_hashed_and_free_of_addresses(lock: str) -> None:
    assert pins.read(places.lock_file(lock))


@pytest.mark.parametrize(("small", "large"), [("runtime", "dev"), ("dev", "bench")])
def test_each_larger_lock_holds_the_smaller_one(small: str, large: str) -> None:
    inner, outer = ({p.name: (p.version, p.sha256) for p in pins.read(places.lock_file(n))} for n in (small, large))
    assert {name: outer.get(name) for name in inner} == inner


def test_requirements_txt_is_the_runtime_lock() -> None:
    expected = relock.HEADER + places.lock_file("runtime").read_text(encoding="utf-8")
    assert (places.ROOT / "requirements.txt").read_text(encoding="utf-8") == expected
