"""Checks of releases: ledger, live release, running servers."""

from collections.abc import Iterator

from relearn.flows.ops.checks.check import CheckResult, failed, ok, skipped
from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError, RelearnError
from relearn.model.home import Home
from relearn.serving.deployment.bento_store import find_bento_folder
from relearn.serving.deployment.discovery import RunningServer, find_running_servers
from relearn.serving.releases.ledger import Entry
from relearn.serving.releases.store import ReleaseStore, list_released_names
from relearn.serving.runtime.hot_reload import load_release


def ledger(home: Home) -> Iterator[CheckResult]:
    """Check that no entry of a ledger was changed or lost."""
    for name in list_released_names(home):
        folder = ReleaseStore(home.releases_dir(name)).ledger.folder
        try:
            entries = ReleaseStore(home.releases_dir(name)).ledger.read_entries()
        except CorruptDataError as error:
            yield failed(
                str(error),
                f"restore {folder} from a copy: it decides what is live; servers keep what they serve",
                name,
                CorruptDataError.exit_code,
            )
        except InfrastructureError as error:
            yield failed(str(error), f"let this user read {folder}", name)
        else:
            live_release = entries[-1].live if entries else None
            live_status = f"version {live_release.version} is live" if live_release else "nothing is live"
            yield ok(f"{len(entries)} decisions, none changed or lost; {live_status}", name)
    if not list_released_names(home):
        yield skipped("nothing is released yet")


def live(home: Home) -> Iterator[CheckResult]:
    """Check that the live release loads, and predicts as it did when it was released."""
    for name, last_entry in _read_last_entries(home):
        if last_entry.live is None:
            yield skipped("nothing is live", name)
            continue
        try:
            load_release(ReleaseStore(home.releases_dir(name)), last_entry.live)
        except RelearnError as error:
            rollback_command = f"relearn rollback --model-name {name} --reason damaged"
            yield failed(
                f"version {last_entry.live.version}: {error}",
                (
                    f"{rollback_command} makes version {last_entry.rollback_target} live again"
                    if last_entry.rollback_target
                    else "restore it from a copy"
                ),
                name,
                error.exit_code,
            )
        else:
            yield ok(f"version {last_entry.live.version} loads, and predicts as when it was released", name)


def bento(home: Home) -> Iterator[CheckResult]:
    """Check that the Bento of the live release is there, and that BentoML can read it."""
    for name, last_entry in _read_last_entries(home):
        if last_entry.live is None:
            continue
        try:
            folder = find_bento_folder(last_entry.live.bento, home)
        except (NotFoundError, CorruptDataError) as error:
            fix = f"relearn release {last_entry.live.run_id[:8]} builds it again"
            yield failed(str(error), fix, name, error.exit_code)
        else:
            yield ok(f"{folder} can be served", name)


def servers(home: Home) -> Iterator[CheckResult]:
    """Check that each running server answers, with the live version of the ledger."""
    live_versions = {
        name: last_entry.live.version if last_entry.live else None
        for name, last_entry in _read_last_entries(home)
    }
    running_servers = list(find_running_servers(home))
    for server in running_servers:
        yield _check_server(server, live_versions.get(server.model_name or ""))
    if not running_servers:
        yield skipped("none runs on this machine: relearn serve starts one")


def _check_server(server: RunningServer, expected_version: str | None) -> CheckResult:
    served_version = server.get_served_version()
    if served_version is None:
        return failed(
            f"runs as process {server.pid}, and does not answer",
            f"stop it and start it again: kill {server.pid}; relearn serve --model-name {server.model_name}",
            server.url,
        )
    if server.model_name is None or served_version == expected_version:
        workers = f"{server.worker_count} worker{'s' if server.worker_count > 1 else ''}"
        return ok(f"answers with version {served_version}, {workers}", server.url)
    return failed(
        f"answers with version {served_version}, the ledger of {server.model_name} says"
        f" {expected_version or 'nothing'}",
        f"see the state of its workers at {server.url}/info, and start it again if it stays so",
        server.url,
    )


def _read_last_entries(home: Home) -> Iterator[tuple[str, Entry]]:
    """Yield each model name with the last entry of its ledger; skip unreadable ledgers, which `ledger`
    reports.
    """
    for name in list_released_names(home):
        try:
            last_entry = ReleaseStore(home.releases_dir(name)).ledger.read_last()
        except RelearnError:
            continue
        if last_entry is not None:
            yield name, last_entry
