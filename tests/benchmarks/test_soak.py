"""Promises of the soak: a leak is told from a server that keeps nothing."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.soak import TOLERATED, slope_of


@pytest.mark.parametrize(("leak", "caught"), [(0.0, False), (60.0, True)])
def test_a_leak_stands_out_of_the_noise(leak: float, caught: bool) -> None:
    """Of 8 minutes with steps of an allocator and a rare peak, 60 MB an hour are caught, none are made up."""
    minute = np.arange(0, 8, 1 / 60)
    random = np.random.default_rng(0)
    peaks = 80 * (random.random(len(minute)) < 0.02)
    rss = 320 + leak * minute / 60 + random.choice([0.0, 0.25], len(minute)) + peaks
    slope, low, high = slope_of(pd.DataFrame({"minute": minute, "rss": rss}))

    assert caught == (low > TOLERATED)
    assert low <= leak <= high
    assert abs(slope - leak) < 5
