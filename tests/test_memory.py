from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from scalex.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [torch.ones(1000, 2000) for _ in range(20)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the page faults of glibc")
def test_memory_that_is_freed_and_taken_again_is_not_faulted_in_again() -> None:
    counted = [
        int(subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, text=True, check=True).stdout)
        for kept in (False, True)
    ]
    assert counted[1] < counted[0] / 10
