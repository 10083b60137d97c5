"""`rumi setup --web`: prints one address, serves until somebody presses Finish or nobody is there any more."""

from __future__ import annotations

import argparse
import os
import sys

from rumi_setup.core.words import language
from rumi_setup.web.server import WizardServer
from rumi_setup.web.wizard import Wizard
from rumi_setup.web.words import Words


def main(argv: list[str] | None = None) -> int:
    """Serves the wizard; 0 when it was finished, 1 when it ended because nobody used it."""
    say = Words(language())
    parser = argparse.ArgumentParser(prog="rumi setup --web", description=say("The setup wizard in the browser."))
    parser.add_argument("--offline", metavar="DIR", default="", help=say("install from a folder of wheels"))
    options = parser.parse_args(argv)
    with WizardServer(Wizard(offline=options.offline)) as server:
        print(say("Open this in a browser on this machine. It can be used once:"))
        print(f"\n  {server.address}\n", flush=True)
        if os.environ.get("SSH_CONNECTION"):
            print(say("From another machine, first: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE", port=server.port))
        print(say("It ends with Finish, after {n} minutes without use, or with Ctrl-C.", n=server.idle_minutes))
        sys.stdout.flush()
        finished = server.serve()
    print(say("Setup finished. Next: ./rumi up") if finished else say("Nobody used the wizard, so it ended."))
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
