"""What `rumi` starts inside the environment: puts the project's folder on the path and dispatches.

Started by file name under `-I`, so the current folder and PYTHONPATH never decide which module is loaded. Imports next
to nothing itself: the warm path of every command goes through here.
"""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - pathlib costs 10 ms here
# these make or need another environment than the one they run in, and work without the command line's libraries
_CORE_WORDS = ("setup", "test", "check")


def main() -> int:
    """Runs one command."""
    if _ROOT not in sys.path:
        sys.path.insert(0, _ROOT)
    if sys.argv[1:2] and sys.argv[1] in _CORE_WORDS:
        from rumi_setup.core.entry import inside

        return inside(sys.argv[1:])
    import runpy

    sys.argv[0] = "rumi"
    runpy.run_module("rumi_setup.cli", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
