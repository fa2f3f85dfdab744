"""Tests of the soak benchmark: a leak is distinguished from stable memory."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.soak import MAX_LEAK_MB_PER_HOUR, slope_of


@pytest.mark.parametrize(("leak", "detected"), [(0.0, False), (60.0, True)])
def test_a_leak_stands_out_of_the_noise(leak: float, detected: bool) -> None:
    """In 8 minutes with allocator steps and rare peaks, a leak of 60 MB/h is detected, and no false one."""
    minute = np.arange(0, 8, 1 / 60)
    random = np.random.default_rng(0)
    peaks = 80 * (random.random(len(minute)) < 0.02)
    rss = 320 + leak * minute / 60 + random.choice([0.0, 0.25], len(minute)) + peaks
    slope, low, high = slope_of(pd.DataFrame({"minute": minute, "rss": rss}))

    assert detected == (low > MAX_LEAK_MB_PER_HOUR)
    assert low <= leak <= high
    assert abs(slope - leak) < 5
