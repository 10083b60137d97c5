"""How the agent loads code: a Pack's text as it was reviewed, asyncio without what it seldom uses."""

from __future__ import annotations

import concurrent.futures

import pytest

from tests.support.fake_host import BusError, FakeHost

LAZY = ("ssl", "inspect", "tokenize", "locale", "textwrap", "asyncio.sslproto")


def test_a_module_runs_once_under_its_own_name_and_without_our_future(start, host: FakeHost) -> None:
    start("""
        import sys
        def annotated(value: 1 + 1): ...
        ran = []
        ran.append(len(ran))
        def raises(args, ctx):
            raise LookupError("here")
        def run(context):
            ir = context["interface_registry"]
            ir.register("facts", lambda: [annotated.__annotations__["value"], ran, run.__code__.co_filename,
                                          (lambda: 0).__code__.co_filename, sys.gettrace() is None])
            ir.register("raises", raises)
        """)  # fmt: skip
    value, ran, name, inner, untraced = host.call("facts")
    assert (value, ran, untraced) == (2, [0], True)
    assert name == inner
    assert name.endswith("/backend/components/one/setup.py")
    with pytest.raises(BusError) as caught:
        host.call("raises")
    assert f'File "{name}"' in caught.value.trace


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def run(:\n", "SyntaxError"),
        ("x = 1\0\n", "ValueError|SyntaxError"),
        ("(" * 300 + ")" * 300, "SyntaxError|MemoryError"),
        ("return 1\n", "SyntaxError"),
        ("# coding: nonsense\n", "SyntaxError"),
    ],
)
def test_what_is_no_python_fails_by_name(start, text: str, fault: str) -> None:
    peer = start("def run(context): ...", run=False)
    (peer.root / "backend/components/one/broken.py").write_text(text)
    kind, title, *_ = peer.phase("one", "broken.py")["error"]
    assert kind.removeprefix("error/") in fault.split("|")
    if kind == "error/SyntaxError" and "null" not in title:
        assert "broken.py" in title or "source" in title or "encoding" in title


def test_modules_beside_it_and_other_encodings_are_read(start, host: FakeHost) -> None:
    peer = start("def run(context): ...", run=False)
    folder = peer.root / "backend/components/one"
    (folder / "helper.py").write_bytes("# coding: latin-1\nTEXT = 'é'\n".encode("latin-1"))
    (folder / "setup.py").write_text(
        "import helper\ndef run(context):\n"
        "    context['interface_registry'].register('text', lambda: [helper.TEXT, helper.__file__])\n"
    )
    peer.good_phase("one")
    text, path = host.call("text")
    assert text == "é"
    assert path.endswith("helper.py")


def test_what_asyncio_seldom_uses_is_loaded_at_its_first_use(start, host: FakeHost) -> None:
    start("""
        import asyncio, sys
        LAZY = ("ssl", "inspect", "tokenize", "locale", "textwrap", "asyncio.sslproto")
        def kinds():
            return {name: type(sys.modules[name]).__name__ for name in LAZY}
        async def loaded(args, ctx):
            await asyncio.sleep(0)
            before = kinds()
            import inspect, locale, ssl, textwrap, tokenize
            from inspect import signature
            tls = ssl.create_default_context()
            try:
                await asyncio.open_connection("127.0.0.1", 9, ssl=tls)
            except OSError:
                pass
            ssl.ADDED = 1
            used = [str(signature(loaded)), textwrap.dedent(" x"), tokenize.NAME, bool(locale.LC_ALL),
                    isinstance(tls, sys.modules["ssl"].SSLContext), asyncio.sslproto.ssl is ssl, vars(ssl)["ADDED"]]
            return [before, used, kinds(), asyncio.iscoroutinefunction(loaded)]
        def run(context):
            context["interface_registry"].register("loaded", loaded)
        """)
    before, used, after, coroutine = host.call("loaded")
    assert set(before.values()) <= {"Later", "module"}
    assert before["ssl"] == before["inspect"] == before["asyncio.sslproto"] == "Later"
    assert used == ["(args, ctx)", "x", 1, True, True, True, 1]
    assert after == dict.fromkeys(LAZY, "module")
    assert coroutine is True


def test_threads_that_use_a_module_first_at_once_all_find_it_whole(start, host: FakeHost) -> None:
    start("""
        import asyncio
        async def waits(args, ctx):
            await asyncio.sleep(0)
        def first(args, ctx):
            import inspect, ssl
            return [callable(inspect.getmembers), hasattr(ssl, "create_default_context"), ssl.SSLError.__name__]
        def run(context):
            context["interface_registry"].register("first", first)
            context["interface_registry"].register("waits", waits)
        """)
    host.call("waits")
    with concurrent.futures.ThreadPoolExecutor(16) as many:
        assert list(many.map(lambda _: host.call("first"), range(16))) == [[True, True, "SSLError"]] * 16
