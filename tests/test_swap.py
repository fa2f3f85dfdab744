"""The promise of a swap: under load, nobody notices."""

from pathlib import Path

import pytest

from benchmarks.swap import STEPS, Stage, watch


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_notices_a_swap(tmp_path: Path, workers: int) -> None:
    """Ten promotions and two rollbacks: no request fails, each answer is that of the version it names.

    No worker goes back but for the rollbacks, and all have swapped within 5 seconds.
    """
    watched = watch(Stage(tmp_path), workers)

    assert (12, 20_000) <= (len(watched.changes), len(watched.answers))
    assert (0, 0, 0) == (watched.failed, watched.wrong, watched.went_back)
    assert {"1", *STEPS} - {"back"} == set(watched.answers["version"])
    assert set(range(1, workers + 1)) == set(watched.answers["worker"])
    assert max(watched.took) < 5
