"""Where a training runs."""

import ctypes
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from relearn.model.devices import tune_malloc

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**21)  # 8 MB, 2048 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

left_alone = faults()
tune_malloc()
faults()
print(left_alone, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt")
def test_memory_that_torch_frees_is_used_again() -> None:
    """The system does not clear the same pages again for every batch."""
    counted = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    left_alone, reused = map(int, counted.stdout.split())
    assert left_alone > 2 * 2048
    assert reused < 100
