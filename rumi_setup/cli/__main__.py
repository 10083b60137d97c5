"""`python -m rumi_setup.cli`, which is what `rumi` runs."""

import sys

from rumi_setup.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
