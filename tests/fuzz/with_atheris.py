"""The same targets under atheris (libFuzzer for Python), where it is installed: ``pip install atheris``; it is in no lock file.

It instruments the bytecode of the watched modules, the agent's among them; the C extensions underneath are as they are.
One process fuzzes one target: libFuzzer does not return.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["core_runtime", "fuzzed_agent", "tests.fuzz.targets"]):
    from tests.fuzz import targets


def main(name: str, seconds: float) -> None:
    """Fuzz one target."""
    module = targets.agent_module()
    for part in (module.Agent, module.PureReader, module.PureCodec):
        for attribute, fn in list(vars(part).items()):
            if type(fn) is type(main):
                setattr(part, attribute, atheris.instrument_func(fn))
    with targets.target(name) as work, tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(targets.seeds(name)):
            (Path(folder) / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=8192", "-rss_limit_mb=1024", "-timeout=5", folder], work)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
