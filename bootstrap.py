"""Thin entry into `rumi_setup` that starts on any Python from 3.9 and needs nothing installed.

    python bootstrap.py                 set up whatever is missing
    python bootstrap.py --cli WORD      check | init | doctor | recover | reset | run
    python bootstrap.py --web           the setup wizard on loopback

`rumi` calls it with `--rumi ARGUMENTS` when the environment is missing or older than its lock.
"""

import os
import sys

ROOT = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - runs before the version is known to be met

if sys.version_info < (3, 9):  # noqa: UP036 - this is the file that says so
    sys.exit("Python 3.11 or newer is needed. Install one, then run this again.")

sys.path.insert(0, ROOT)
sys.dont_write_bytecode = True  # the tree may belong to somebody else, or be read by an older Python next

from rumi_setup.core.entry import bootstrap  # noqa: E402

if __name__ == "__main__":
    sys.exit(bootstrap(sys.argv[1:]))
