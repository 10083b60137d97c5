"""Run with: ./rumi pack test FOLDER. `rumi` is the Pack, approved and running in its sandbox."""


def test_it_says_hello(rumi):
    assert "Ada" in str(rumi.call("__pack_id__.hello", {"name": "Ada"}))
