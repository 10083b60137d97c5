"""Dispatch of what must work before the environment exists: `bootstrap.py`, and three words of `rumi`.

Two ways in. `bootstrap` runs on any Python from 3.9 with nothing installed; `inside` runs in the environment. Words
that are not answered here go to `rumi_setup.cli`, in the environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Callable

from rumi_setup.core import checker, initializer, installer, places, recovery, runner
from rumi_setup.core.problem import USAGE, SetupError
from rumi_setup.core.words import say

_INTERRUPTED = 130
_BOOTSTRAP_WORDS = ("check", "init", "doctor", "recover", "reset", "run")


def inside(argv: list[str]) -> int:
    """`rumi setup|test|check` in a current environment; the command line delegates these words to it."""
    return _guarded(_OWN[argv[0]], argv[1:])


def bootstrap(argv: list[str]) -> int:
    """`bootstrap.py`; with `--rumi` it is `rumi` whose environment is missing or old."""
    if argv[:1] == ["--rumi"]:
        return _guarded(_rumi_cold, argv[1:])
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=say("Sets up whatever is missing."))
    parser.add_argument("--cli", nargs="?", const="init", choices=_BOOTSTRAP_WORDS, help=say("do one thing"))
    parser.add_argument("--web", action="store_true", help=say("the setup wizard in the browser"))
    parser.add_argument("--offline", metavar="DIR", help=say("install from a folder of wheels"))
    parser.add_argument("--yes", action="store_true", help=say("answer yes to the question of `reset`"))
    run = parser.add_argument_group("--cli run")
    run.add_argument("--home", metavar="DIR", help=say("where ecosystem/ and user_data/ are"))
    run.add_argument("--api-port", type=int, default=os.environ.get("RUMI_API_PORT") or runner.API_PORT, metavar="N")
    run.add_argument("--web-port", type=int, default=os.environ.get("RUMI_WEB_PORT") or runner.WEB_PORT, metavar="N")
    run.add_argument("--isolation", choices=runner.ISOLATIONS, default=os.environ.get("RUMI_ISOLATION") or "auto")
    options = parser.parse_args(argv)
    return _guarded(lambda _: _bootstrap_word(options), [])


def _guarded(act: Callable[[list[str]], int], argv: list[str]) -> int:
    """The one place where a setup error becomes text and an exit code."""
    try:
        return act(argv)
    except SetupError as error:
        print(f"rumi: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(say("Interrupted. Running it again mends whatever was half done."), file=sys.stderr)
        return _INTERRUPTED


def _rumi_cold(argv: list[str]) -> int:
    own = _OWN.get(argv[0]) if argv else None
    if own is not None:
        return own(argv[1:])
    installer.ensure("runtime")
    return _inside_environment(["-I", str(places.ROOT / "rumi_setup" / "__main__.py"), *argv])


def _inside_environment(arguments: list[str]) -> int:
    """Becomes the environment's Python; on Windows, where nothing can, starts it and waits."""
    argv = [str(places.venv_python()), *arguments]
    if sys.platform == "win32":
        return subprocess.run(argv, check=False).returncode
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted


def _bootstrap_word(options: argparse.Namespace) -> int:
    word: str = options.cli or "init"
    if options.web:
        return _web(options.offline)
    if word == "run":
        installer.ensure("runtime", options.offline)
        return runner.up(options.home, False, options.api_port, options.web_port, options.isolation)
    if word == "init":
        return _set_up(options.offline)
    if word == "reset":
        return _reset(options.yes)
    return {"check": checker.main, "doctor": _doctor, "recover": _recover}[word]()


def _set_up(offline: str | None) -> int:
    installer.ensure("runtime", offline)
    made = initializer.initialise()
    for check in checker.run_checks():
        if check.status is not checker.Status.OK:
            print(f"{check.title}: {check.detail}" + (f" -> {check.hint}" if check.hint else ""), file=sys.stderr)
    count = len(made.created)
    print(say("Ready: {home} ({n} created). Next: ./rumi up", home=made.home, n=count))
    return 0


def _doctor() -> int:
    found = recovery.diagnose()
    for issue in found:
        print(f"{issue.severity:5}  {issue.id}: {issue.message}")
    if recovery.healthy(found):
        print(say("Healthy."))
        return 0
    print(say("Mend it: python bootstrap.py --cli recover"))
    return 1


def _recover() -> int:
    for mended in recovery.fix():
        kept = say(" (the old one is {path})", path=mended.backup) if mended.backup else ""
        print(f"{'ok  ' if mended.success else 'FAIL'}  {mended.id}: {mended.message}{kept}")
    return _doctor()


def _reset(sure: bool) -> int:  # noqa: FBT001 - the answer to a question
    home_dir = places.home()
    host = runner.running(home_dir)
    if host is not None:
        raise SetupError(
            say("The host runs (process {pid}).", pid=host.pid), left=say("Nothing was changed."),
            next_steps=(say("Stop it first: ./rumi down"),),
        )  # fmt: skip
    if not sure and not _confirmed(say("Put {path} aside and start anew? [y/N] ", path=home_dir / "user_data")):
        print(say("Nothing was changed. Without a terminal, say --yes."), file=sys.stderr)
        return USAGE
    print(recovery.reset(home_dir).message)
    return 0


def _confirmed(question: str) -> bool:
    return sys.stdin.isatty() and input(question).strip().lower() in {"y", "yes", "はい"}


def setup(argv: list[str]) -> int:
    """`rumi setup`."""
    parser = argparse.ArgumentParser(prog="rumi setup", description=say("Sets up whatever is missing."))
    parser.add_argument("--offline", metavar="DIR", help=say("install from a folder of wheels"))
    parser.add_argument("--wheelhouse", metavar="DIR", help=say("fill a folder of wheels for another machine"))
    parser.add_argument("--for", dest="lock", choices=places.LOCK_NAMES, default="runtime", help=say("which lock"))
    parser.add_argument("--local-base", action="store_true", help=say("make the base image without a registry"))
    parser.add_argument("--lock", dest="relock", action="store_true", help=say("compile the locks (developers)"))
    parser.add_argument("--upgrade", metavar="PACKAGE", action="append", default=[], help=say("with --lock"))
    parser.add_argument("--web", action="store_true", help=say("the setup wizard in the browser"))
    options = parser.parse_args(argv)
    if options.relock:
        from rumi_setup.core.relock import relock

        relock(options.upgrade)
        return 0
    if options.wheelhouse:
        installer.make_wheelhouse(options.wheelhouse, options.lock)
        return 0
    if options.web:
        return _web(options.offline)
    if options.lock != "runtime":
        installer.ensure(options.lock, options.offline)
    code = _set_up(options.offline)
    return _local_base() if options.local_base else code


def _web(offline: str | None) -> int:
    """The wizard needs no environment: making one is what it is for."""
    import runpy

    sys.argv = ["rumi setup --web", *(["--offline", offline] if offline else [])]
    try:
        runpy.run_module("rumi_setup.web", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


def _local_base() -> int:
    from rumi_setup.core import base_image

    made = base_image.build_local()
    official = base_image.build_official_base()
    print(say("Images: {names}", names=", ".join((*made.names, *official.names))))
    return 0


def test(argv: list[str]) -> int:
    """`rumi test`."""
    if {"-h", "--help"} & set(argv):
        print(
            say("rumi test [--with-engine|--no-engine] [what pytest takes]: sets up what is missing, runs all tests.")
        )
        return 0
    from rumi_setup.core import testing

    return testing.run(argv)


def check(argv: list[str]) -> int:
    """`rumi check`."""
    from rumi_setup.core import quality

    return quality.run_checks(tuple(argv))


_OWN: dict[str, Callable[[list[str]], int]] = {"setup": setup, "test": test, "check": check}
