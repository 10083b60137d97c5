"""Memory of a value of some megabytes is used again instead of being fetched from the kernel each time."""

import subprocess
import sys

STORY = """
import resource, sys
from core_runtime.drivers.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory() is True
first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    values = [b"x" * 1_500_000, bytearray(1_500_000)]
    del values
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""


def pages(way):
    return int(subprocess.run([sys.executable, "-c", STORY, way], capture_output=True, text=True, check=True).stdout)


def test_pages_are_fetched_once():
    fetched = pages("kept")
    assert fetched * 10 < pages("left")
    assert fetched < 5_000
