"""Prune flow: delete what a home can make again, on a schedule."""

from collections.abc import Sequence

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from relearn.flows.orchestration.flow_process import record_process
from relearn.flows.releases import prune as pruning
from relearn.flows.releases.prune import Prunable
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

REPORT_FILE = "prune.md"  # of the last scheduled prune, in the home


@flow(name="prune", flow_run_name="prune", on_running=[record_process])
def prune(keep: int = 3, only_rebuildable: bool = True, dry_run: bool = False) -> int:
    """Delete unused prepared data, features and temporary files; return the number of bytes.

    The first run in a home only lists what it would delete, as each run with `dry_run` does. Without
    `only_rebuildable` it deletes all that `relearn home prune --keep` does: old versions, files of runs and
    checkpoints, too.
    """
    home = Home.from_environment()
    is_dry = dry_run or not (home.root / REPORT_FILE).exists()
    find = pruning.find_prunable if is_dry else pruning.prune
    prunables = list(find(home, max(keep, 1), only_rebuildable=only_rebuildable))
    report = describe_prunables(prunables, is_dry)
    get_run_logger().info(report)
    create_markdown_artifact(report, key="prune", description="What was deleted from the home")
    write_bytes_atomically(home.root / REPORT_FILE, report.encode())
    return sum(prunable.size_bytes for prunable in prunables)


def describe_prunables(prunables: Sequence[Prunable], is_dry: bool) -> str:
    """Return a Markdown list of what is, or would be, deleted."""
    total = sum(prunable.size_bytes for prunable in prunables)
    lines = [f"{total:,} bytes {'would be' if is_dry else 'are'} freed", ""]
    lines += [f"- {prunable.kind} {prunable.name}: {prunable.size_bytes:,}" for prunable in prunables]
    return "\n".join(lines) + "\n"
