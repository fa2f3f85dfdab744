"""Promises of the hot reload under load: no failed request, no wrong version."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.load import generate_load
from benchmarks.swap import STEPS, ReleaseFixture, all_serve, build_json_request, run_load_test, run_server
from relearn.serving.deployment.server import Server
from relearn.serving.releases.golden import Golden


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_hot_reload_fails_no_request(tmp_path: Path, workers: int) -> None:
    """Ten promotions and two rollbacks: no request fails, each prediction is that of the version it names.

    No worker returns to an old version except in the rollbacks; all workers reload within 5 seconds.
    """
    load_test = run_load_test(ReleaseFixture(tmp_path), workers)

    assert (12, 20_000) <= (len(load_test.changes), len(load_test.responses))
    assert (0, 0, 0) == (load_test.failed_count, load_test.wrong_count, load_test.stale_count)
    assert {"1", *STEPS} - {"back"} == set(load_test.responses["version"])
    assert set(range(1, workers + 1)) == set(load_test.responses["worker"])
    assert max(load_test.reload_seconds) < 5


def corrupt(fixture: ReleaseFixture, version: str) -> dict[str, str]:
    """Publish a version with one flipped bit in its weights."""
    digests = fixture.releases.add_version(version, fixture.folders[version])
    weights = fixture.releases.version_folder(version) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return digests


def wrong(fixture: ReleaseFixture, version: str) -> None:
    """Give a version the golden requests of another one."""
    Golden(fixture.images, fixture.expected["1"]).save(fixture.folders[version])


def pipe(fixture: ReleaseFixture, version: str) -> dict[str, str]:
    """Publish a version whose weights are a named pipe, which would block forever on reading."""
    digests = fixture.releases.add_version(version, fixture.folders[version])
    weights = fixture.releases.version_folder(version) / "weights.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    return digests


def load_errors(server: Server) -> list[dict[str, str] | None]:
    info = httpx.get(f"{server.url}/info", timeout=5, trust_env=False).json()
    return [worker["load_error"] for worker in info["workers"]]


def all_report(server: Server, version: str, reason: str) -> bool:
    return all(
        error and error["version"] == version and reason in error["reason"] for error in load_errors(server)
    )


def becomes_true(condition: Callable[[], object]) -> bool:
    """Wait for at most half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_failed_reload_fails_no_request(tmp_path: Path) -> None:
    """For a corrupt, wrong or blocking release the live version is still served; `/info`, a metric and a log
    report the reason."""
    fixture = ReleaseFixture(tmp_path)
    requests = [build_json_request(image) for image in fixture.images]
    faults = {"2": (corrupt, "SHA-256"), "3": (wrong, "golden requests"), "4": (pipe, "regular file")}
    with (
        run_server(fixture, 2) as server,
        generate_load(server.address, requests, 8, pause=0.02) as responses,
    ):
        for version, (damage, reason) in faults.items():
            fixture.promote(version, damage(fixture, version))
            assert becomes_true(partial(all_report, server, version, reason))
            metrics = httpx.get(f"{server.url}/metrics", timeout=5, trust_env=False).text
            assert f'relearn_workers_load_failed{{version="{version}"}} 2.0' in metrics
            log = server.log_file.read_text()
            assert f"version {version} cannot be served, the previous version stays" in log
        fixture.promote("5")
        assert becomes_true(lambda: all_serve(server, "5"))
        assert [None, None] == load_errors(server)

    assert {200} == {response.status for response in responses}
    assert {b'"version":"1"', b'"version":"5"'} == {response.body[1:14] for response in responses}
