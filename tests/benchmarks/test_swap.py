"""The promise of a swap: under load, nobody notices."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.load import load
from benchmarks.swap import STEPS, Stage, all_serve, as_json, served, watch
from relearn.serving.deployment.server import Server
from relearn.serving.releases.golden import Golden


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


def corrupt(stage: Stage, version: str) -> dict[str, str]:
    """One bit of its weights is another."""
    digests = stage.releases.add_version(version, stage.folders[version])
    weights = stage.releases.version_folder(version) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return digests


def wrong(stage: Stage, version: str) -> None:
    """It does not answer as it is said to."""
    Golden(stage.images, stage.expected["1"]).save(stage.folders[version])


def slow(stage: Stage, version: str) -> dict[str, str]:
    """Reading its weights does not come to an end."""
    digests = stage.releases.add_version(version, stage.folders[version])
    weights = stage.releases.version_folder(version) / "weights.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    return digests


def refused(server: Server) -> list[dict[str, str] | None]:
    told = httpx.get(f"{server.url}/info", timeout=5, trust_env=False).json()
    return [one["load_error"] for one in told["workers"]]


def all_refuse(server: Server, version: str, reason: str) -> bool:
    return all(one and one["version"] == version and reason in one["reason"] for one in refused(server))


def comes(condition: Callable[[], object]) -> bool:
    """Whether it does within half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_a_release_in_trouble_costs_no_answer(tmp_path: Path) -> None:
    """Corrupt, wrong, slow: what was live goes on answering, and `/info`, a metric and the log tell why."""
    stage = Stage(tmp_path)
    requests = [as_json(image) for image in stage.images]
    troubles = {"2": (corrupt, "SHA-256"), "3": (wrong, "golden requests"), "4": (slow, "still loading")}
    with served(stage, 2) as server, load(server.address, requests, 8, pause=0.02) as answers:
        for version, (damage, reason) in troubles.items():
            stage.promote(version, damage(stage, version))
            assert comes(partial(all_refuse, server, version, reason))
            page = httpx.get(f"{server.url}/metrics", timeout=5, trust_env=False).text
            assert f'relearn_workers_load_failed{{version="{version}"}} 2.0' in page
            assert f"version {version} cannot be served, what was live stays" in server.log_file.read_text()
        stage.promote("5")
        assert comes(lambda: all_serve(server, "5"))
        assert [None, None] == refused(server)

    assert {200} == {answer.status for answer in answers}
    assert {b'"version":"1"', b'"version":"5"'} == {answer.body[1:14] for answer in answers}
