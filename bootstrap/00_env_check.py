"""Looks at the machine and says what is there, what is missing and what to do. Changes nothing."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))  # noqa: PTH120
sys.dont_write_bytecode = True

from rumi_setup.core.checker import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
