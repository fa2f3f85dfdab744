"""`relearn release`, `rollback` and `history`: releases, reference images and their history."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from relearn.flows.cli.parameters import Gate, Json, SettingsFile
from relearn.flows.config import PromotionConfig
from relearn.flows.scheduling.prefect_context import prefect_context
from relearn.flows.terminal.console import make_console, print_json, print_note, print_warning, spinner
from relearn.flows.terminal.next_step import print_next
from relearn.model.errors import CorruptDataError, UserInputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.results import ReleaseResult

REJECTED = CorruptDataError.exit_code
RELOAD_TIMEOUT_SECONDS = 5.0  # for running servers to serve a new release

ACTION_COLORS = {
    "promote": "green",
    "hold": "yellow",
    "reject": "red",
    "rollback": "magenta",
    "reference": "cyan",
}


@spinner("Releasing")
def release(
    run: str | None = None,
    /,
    *,
    reference: str | None = None,
    reason: str | None = None,
    model_name: str | None = None,
    gate: Gate = PromotionConfig(),
    file: SettingsFile = None,
) -> None:
    """Compare the classifier of a run with the champion, and release it if the gate promotes it.

    With `--reference` instead of a run, only the images are changed on which candidates are compared.

    Example: `relearn release 5b117b61`

    Parameters
    ----------
    run
        Run id, the beginning of one, a run name, or a version such as mnist@3 or mnist@previous.
    reference
        Dataset, as for `relearn train`, whose test images are the reference images from now on.
    reason
        Reason of `--reference`, for the release history.
    model_name
        Model name of `--reference` or of a version; optional while only one is released.
    """
    home = Home.from_environment()
    if reference is not None:
        if run is not None:
            raise UserInputError("--reference: got RUN as well, accepted: one of the two")
        _set_reference(home, reference, reason, model_name)
        return
    if run is None or reason is not None:
        got = "none" if run is None else "--reason without --reference"
        raise UserInputError(f"run: got {got}, accepted: RUN, or --reference DATASET --reason TEXT")
    from relearn.flows.evaluation.run_resolver import resolve_run

    run_id = resolve_run(home, run, model_name).run_id
    with prefect_context(home, gate):
        from relearn.flows.release import release as release_flow

        result = release_flow(run_id, gate)
    print_result(make_console(), result, home)


def _set_reference(home: Home, dataset: str, reason: str | None, model_name: str | None) -> None:
    reason = _normalize_reason(reason)
    from relearn.flows.promotion.reference_images import set_reference
    from relearn.serving.releases.store import resolve_name

    model_name = resolve_name(home, model_name)
    entry = set_reference(home, model_name, dataset, reason)
    make_console().print(
        f"{model_name}: candidates are compared on the reference images {entry.subject} from now on"
    )


@spinner("Rolling back")
def rollback(*, reason: str, to: str | None = None, model_name: str | None = None) -> None:
    """Roll back to a version that was live before, immediately and without training.

    Example: `relearn rollback --reason "wrong labels"`

    Parameters
    ----------
    reason
        Reason, for the release history.
    to
        Version to roll back to; by default the previous one.
    model_name
        Model name; optional while only one is released.
    """
    reason = _normalize_reason(reason)
    from relearn.flows.releases.release_state import try_sync_with_ledger
    from relearn.flows.releases.rollback import roll_back
    from relearn.serving.releases.store import resolve_name

    home = Home.from_environment()
    model_name = resolve_name(home, model_name)
    entry = roll_back(home, model_name, to, reason)
    for message in try_sync_with_ledger(home, model_name):
        print_warning(message)
    make_console().print(
        f"{model_name}: version {entry.subject} is live again, version {entry.previous_live} no longer"
    )
    confirm_reload(home, model_name, entry.subject)
    print_next("history", "--model-name", model_name)


def history(*, model_name: str | None = None, json: Json = False) -> None:
    """Show all release decisions of a model name: when, by whom, why, and the live version after each.

    Example: `relearn history --model-name digits`

    Parameters
    ----------
    model_name
        Model name; optional while only one is released.
    """
    from relearn.serving.releases.store import ReleaseStore, resolve_name

    home = Home.from_environment()
    releases = ReleaseStore(home.releases_dir(resolve_name(home, model_name)))
    entries = releases.ledger.read_entries()
    if json:
        print_json(entries)
        return
    console = make_console()
    for entry in entries:
        live_status = f"version {entry.live.version}" if entry.live else "nothing"
        console.print(
            Text.assemble(
                f"{entry.decided_at:%Y-%m-%d %H:%M} UTC  ",
                (entry.action, ACTION_COLORS[entry.action]),
                f" {entry.subject}  by {entry.actor}, {live_status} is live",
            )
        )
        console.print(Padding("; ".join(entry.reasons), (0, 0, 0, 4)), style="dim")


def _normalize_reason(reason: str | None) -> str:
    """Return `reason` on one line, as the ledger stores it; raise `UserInputError` if it is empty."""
    if reason is None or not reason.strip():
        raise UserInputError("--reason: got nothing, accepted: a few words for the release history")
    return " ".join(reason.split())


def print_result(console: Console, result: "ReleaseResult", home: Home) -> None:
    """Print the gate decision; after a rejection exit with REJECTED."""
    gate_decision = result.gate_decision
    checks, failed = gate_decision.checks, [check.name for check in gate_decision.checks if not check.passed]
    if checks:
        names = (
            f"; failed: {', '.join(failed)}" if failed else f": {', '.join(check.name for check in checks)}"
        )
        print_note(f"{len(checks) - len(failed)} of {len(checks)} guardrails passed{names}", soft_wrap=False)
    action = (gate_decision.action.upper(), ACTION_COLORS[gate_decision.action])
    if gate_decision.action != "reject":
        console.print(Text.assemble(action, f" {result.summary}"))
    else:
        console.print(Text.assemble(action, f" {result.outcome}"))
        for reason in gate_decision.reasons:
            console.print(f"- {reason}")
    if gate_decision.action != "promote":
        print_next("compare", "--model-name", result.name)
    elif result.live_version and not confirm_reload(home, result.name, result.live_version):
        print_next("up", "--model-name", result.name)
    if gate_decision.action == "reject":
        raise SystemExit(REJECTED)


def confirm_reload(home: Home, name: str, version: str) -> bool:
    """Wait until all workers of the running servers of model `name` serve `version`; print each result.

    Return whether there is a server.
    """
    from relearn.serving.deployment.discovery import find_running_servers

    matching_servers = [server for server in find_running_servers(home) if server.model_name == name]
    for server in matching_servers:
        has_reloaded = server.wait_for_version(version, RELOAD_TIMEOUT_SECONDS)
        message = (
            f"serves version {version}"
            if has_reloaded
            else f"does not serve version {version} yet: see {server.url}/info"
        )
        print_note(f"{server.url} {message}", style="" if has_reloaded else "yellow")
    return bool(matching_servers)
