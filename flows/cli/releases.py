"""`relearn release`, `rollback`, `history`, `reference` and `reproduce`: releases and their history."""

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from relearn.flows.cli.prefect_context import prefect_context
from relearn.flows.config import PromotionConfig
from relearn.flows.console import make_console, print_warning
from relearn.flows.rendering import build_comparison_table
from relearn.model.errors import CorruptDataError, UserInputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.results import ReleaseResult

RELOAD_TIMEOUT_SECONDS = 5.0  # for running servers to serve a new release

Gate = Annotated[PromotionConfig, Parameter(name="*")]
ACTION_COLORS = {
    "promote": "green",
    "hold": "yellow",
    "reject": "red",
    "rollback": "magenta",
    "reference": "cyan",
}


def release(run: str, *, gate: Gate = PromotionConfig()) -> None:
    """Compare the classifier of a run with the champion, and release it if the gate promotes it.

    Parameters
    ----------
    run
        Run id, the beginning of one, or run name.
    """
    home = Home.from_environment()
    from relearn.flows.tracking.runs import resolve_run_id

    run_id = resolve_run_id(home, run)
    with prefect_context(home, gate):
        from relearn.flows.release import release as release_flow

        result = release_flow(run_id, gate)
    print_result(make_console(), result, home)


def rollback(*, reason: str, to: str | None = None, model_name: str | None = None) -> None:
    """Roll back to a version that was live before, immediately and without training.

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
    console = make_console()
    console.print(
        f"{model_name}: version {entry.subject} is live again, version {entry.previous_live} no longer"
    )
    confirm_reload(console, home, model_name, entry.subject)


def history(*, model_name: str | None = None, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Show all release decisions of a model name: when, by whom, why, and the live version after each.

    Parameters
    ----------
    model_name
        Model name; optional while only one is released.
    json
        Print the lines of the ledger as they are.
    """
    from relearn.serving.releases.store import ReleaseStore, resolve_name

    home = Home.from_environment()
    releases = ReleaseStore(home.releases_dir(resolve_name(home, model_name)))
    entries = releases.ledger.read_entries()
    if json:
        sys.stdout.writelines(f"{entry.model_dump_json()}\n" for entry in entries)
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


def reference(*, dataset: str, reason: str, model_name: str | None = None) -> None:
    """Use the test images of another dataset as the reference images; the release history records the change.

    Parameters
    ----------
    dataset
        Dataset as for `relearn train`; its test images become the reference images.
    reason
        Reason, for the release history.
    model_name
        Model name; optional while only one is released.
    """
    from relearn.flows.promotion.reference_images import set_reference
    from relearn.serving.releases.store import resolve_name

    home = Home.from_environment()
    model_name = resolve_name(home, model_name)
    entry = set_reference(home, model_name, dataset, _normalize_reason(reason))
    make_console().print(
        f"{model_name}: candidates are compared on the reference images {entry.subject} from now on"
    )


def reproduce(version: str, *, model_name: str | None = None) -> None:
    """Retrain a version from its model card alone; report identical, equivalent or different weights.

    Parameters
    ----------
    version
        Version number.
    model_name
        Model name; optional while only one is released.
    """
    from relearn.flows.evaluation.reproduce import reproduce_version
    from relearn.serving.releases.store import resolve_name

    home = Home.from_environment()
    model_name = resolve_name(home, model_name)
    result = reproduce_version(home, model_name, version)
    console = make_console()
    console.print(
        build_comparison_table(("original", "reproduced"), result.original_metrics, result.retrained_metrics)
    )
    circumstances = "".join(f"; {difference}" for difference in result.environment_differences)
    if result.conclusion == "different":
        message = f"not reproduced: {result.comparison}, a significant difference{circumstances}"
        raise CorruptDataError(message, "not_reproduced")
    if result.conclusion == "identical":
        status = ("SAME", "green")
        message = f" version {version} of {model_name} was reproduced bit for bit"
    else:
        status = ("CLOSE", "yellow")
        message = (
            f" weights differ by up to {result.max_difference:.2g}, {result.agreement:.2%} of the labels "
            f"agree: {result.comparison}"
        )
    console.print(Text.assemble(status, message + circumstances))


def _normalize_reason(reason: str) -> str:
    """Return `reason` on one line, as the ledger stores it; raise `UserInputError` if it is empty."""
    if not reason.strip():
        raise UserInputError("--reason: got nothing, accepted: a few words for the release history")
    return " ".join(reason.split())


def print_result(console: Console, result: "ReleaseResult", home: Home) -> None:
    """Print the gate decision; raise `CorruptDataError` for a rejection."""
    gate_decision = result.gate_decision
    if gate_decision.checks:
        passed = sum(check.passed for check in gate_decision.checks)
        names = ", ".join(check.name for check in gate_decision.checks)
        console.print(f"{passed} of {len(gate_decision.checks)} guardrails passed: {names}")
    if gate_decision.action == "reject":
        raise CorruptDataError(result.summary, "rejected")
    action = (gate_decision.action.upper(), ACTION_COLORS[gate_decision.action])
    console.print(Text.assemble(action, f" {result.summary}"))
    if gate_decision.action == "promote" and result.live_version:
        confirm_reload(console, home, result.name, result.live_version)


def confirm_reload(console: Console, home: Home, name: str, version: str) -> None:
    """Poll the running servers of the model `name` until all workers serve `version`; print the result."""
    from relearn.serving.deployment.discovery import find_running_servers

    matching_servers = [server for server in find_running_servers(home) if server.model_name == name]
    for server in matching_servers:
        has_reloaded = server.wait_for_version(version, RELOAD_TIMEOUT_SECONDS)
        message = (
            f"serves version {version}"
            if has_reloaded
            else f"does not serve version {version} yet: see {server.url}/info"
        )
        console.print(f"{server.url} {message}", style="" if has_reloaded else "yellow", soft_wrap=True)
    if not matching_servers:
        console.print(f"no server of {name} runs on this machine; the next one serves version {version}")
