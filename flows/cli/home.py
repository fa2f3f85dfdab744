"""Back up, restore and prune the home, the folder that holds all state."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.filesize import decimal

from relearn.flows.terminal.console import make_console, print_warning, spinner
from relearn.flows.terminal.rendering import Table
from relearn.model.errors import UserInputError
from relearn.model.home import Home

app = App(name="home")

BackupFile = Annotated[Path, Parameter(help="A tar file; its name ends in .tar.")]


@app.command
def backup(file: BackupFile, /) -> None:
    """Copy the home, which may be in use, to a new tar file.

    It holds the runs, models and artifacts of MLflow, Prefect's database, releases, ledgers, prediction logs,
    feedback and checkpoints. Data and features that can be downloaded or made again are left out.

    Example: `relearn home backup ../relearn.tar`
    """
    from relearn.flows.ops.backup import back_up, list_outside

    home = Home.from_environment()
    with spinner("Copying the home"):
        manifest = back_up(home, file)
    size = decimal(file.stat().st_size)
    make_console().print(f"{len(manifest.sha256):,} files, {size}, are in {file}", soft_wrap=True)
    for store in list_outside(home):
        print_warning(f"not in the backup, since it is outside of the home: {store}")


@app.command
def restore(file: BackupFile, /) -> None:
    """Make a new home from a backup, at any place; RELEARN_HOME is an absent or empty folder.

    All files are compared with their SHA-256 before the folder exists.

    Example: `RELEARN_HOME=new_home relearn home restore ../relearn.tar`
    """
    from relearn.flows.ops.restore import restore as restore_home

    home = Home.from_environment()
    with spinner("Reading the backup"):
        manifest = restore_home(home, file)
    made_at = f"{manifest.made_at:%Y-%m-%d %H:%M} UTC"
    make_console().print(
        f"{len(manifest.sha256):,} files of {manifest.home} as of {made_at} are in {home.root}",
        soft_wrap=True,
    )


@app.command
def prune(
    *,
    keep: int,
    model_name: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Remove old versions, files of old runs and checkpoints that are no longer needed.

    Always kept: the live version, the rollback target, versions in use by a server or with an MLflow alias,
    and running trainings. Params, metrics and the release history are kept, too.

    Example: `relearn home prune --keep 3 --dry-run`

    Parameters
    ----------
    keep
        Number of newest versions and trainings to keep per model name.
    model_name
        Only what belongs to this model; by default of all models, and what no model needs.
    dry_run
        Only print what would be removed.
    """
    if keep < 1:
        raise UserInputError(f"--keep: got {keep}, accepted: 1 or more")
    from relearn.flows.releases import prune as pruning

    home = Home.from_environment()
    find = pruning.find_prunable if dry_run else pruning.prune
    prunables = list(find(home, keep, model_name))
    console = make_console()
    if prunables:
        rows = [(prunable.kind, prunable.name, decimal(prunable.size_bytes)) for prunable in prunables]
        console.print(Table(("kind", "name", "size"), rows))
    total = sum(prunable.size_bytes for prunable in prunables)
    console.print(f"{total:,} bytes {'would be' if dry_run else 'are'} freed")
