"""Containers and file systems that refuse what a run needs: no effect, or one line before any work."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from relearn import __main__ as entry_point
from relearn.flows.process import system_limits
from relearn.flows.process.home_probe import check_home, list_unwritable
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home
from tests.flows import refusals

REFUSALS = [sys.executable, refusals.__file__]
RELEARN = [sys.executable, "-P", "-m", "relearn"]
CHECK_ALL = (
    "from relearn.flows.cli.train import *; system_limits.check_limits(); check_home(Home.from_environment())"
)


def run_refused(error: str, calls: str, command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose system `calls` fail with `error`."""
    probe = subprocess.run([*REFUSALS, error, *calls.split(), "--", "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("seccomp filters of x86-64 Linux are needed to refuse system calls")
    return subprocess.run(
        [*REFUSALS, error, *calls.split(), "--", *command],
        env=os.environ | {"RELEARN_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


FILE_SYSTEMS = {
    "no locks of files": ("ENOLCK", "flock", "No locks available"),
    "locks not supported": ("EOPNOTSUPP", "flock", "Operation not supported"),
    "no locks of databases": ("ENOLCK", "fcntl:1=6", "keeps no SQLite database"),
    "no modes": ("EPERM", "chmod fchmod fchmodat fchmodat2", "sets no modes of files"),
    "no sync": ("EINVAL", "fsync fdatasync", "keeps no SQLite database"),
}


@pytest.mark.parametrize(("error", "calls", "reason"), FILE_SYSTEMS.values(), ids=FILE_SYSTEMS)
def test_file_system_without_what_a_run_needs_is_named(
    error: str, calls: str, reason: str, tmp_path: Path
) -> None:
    """By train, before anything is imported or trained, and by doctor; nothing is left behind."""
    home = tmp_path / "home"
    train = run_refused(error, calls, [*RELEARN, "train", "--dataset", "digits", "--epochs", "1"], home)
    assert 3 == train.returncode
    (line,) = train.stderr.splitlines()
    assert reason in line
    assert "RELEARN_HOME" in line
    assert [] == list(home.iterdir())
    check = (
        "from relearn.flows.ops.doctor import *; print(*run_check(Home.from_environment(), 'system', 'home'))"
    )
    assert reason in run_refused(error, calls, [sys.executable, "-P", "-c", check], home).stdout


def test_refused_limits_have_no_effect(tmp_path: Path) -> None:
    """A container may refuse to say which limits apply; most have none."""
    command = [sys.executable, "-P", "-c", CHECK_ALL]
    result = run_refused("EPERM", "prlimit64 getrlimit setrlimit", command, tmp_path / "home")
    assert (0, "") == (result.returncode, result.stderr)


def test_file_system_without_hard_links_keeps_a_ledger(tmp_path: Path) -> None:
    """A new file is created once there, too."""
    code = (
        "import sys; from relearn.model.files import *; print([create_file(Path('a'), b'1') for _ in 'ab'])"
    )
    command = ["env", f"--chdir={tmp_path}", sys.executable, "-P", "-c", code]
    result = run_refused("EPERM", "link linkat", command, tmp_path)
    assert "[True, False]\n" == result.stdout
    assert ["a"] == [path.name for path in tmp_path.iterdir()]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users may enter; those of pytest they may not."""
    with tempfile.TemporaryDirectory(prefix="relearn-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="only an administrator can act as another user")
@pytest.mark.parametrize("name", [".mlflow.db.lock", "mlflow.db", "prefect/prefect.db", "artifacts/1/"])
def test_home_with_files_of_another_user_is_named(name: str, public_folder: Path) -> None:
    """Where the folders are shared by a group and the files are not: by train and by doctor, with the fix."""
    home = public_folder / "home"
    path = home / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith("/") else path.touch()
    for folder in (home, *path.parents):
        if folder.is_relative_to(home):
            folder.chmod(0o777)
    path.chmod(0o755)
    user = ["setpriv", "--reuid", "4711", "--regid", "4711", "--clear-groups"]
    result = subprocess.run(
        [*user, *RELEARN, "train", "--dataset", "digits"],
        env=os.environ | {"RELEARN_HOME": str(home), "HOME": "/", "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 3 == result.returncode
    assert (
        f"error[infrastructure]: this user may not write to {home / name}: make this user the owner"
        in result.stderr
    )
    assert 1 == len(result.stderr.splitlines())


def test_home_on_a_usable_disk_is_not_changed(tmp_path: Path) -> None:
    """The probe leaves no file."""
    home = Home(tmp_path / "home", tmp_path / "data")
    check_home(home)
    assert [] == list(home.root.iterdir())
    assert [] == list_unwritable(home)
    shutil.rmtree(home.root)


def test_missing_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose /dev is empty gets one line."""
    monkeypatch.setattr(system_limits, "DEVICES", (tmp_path / "null",))
    with pytest.raises(InfrastructureError, match="null is not there"):
        system_limits.check_limits()


@pytest.mark.parametrize("name", ["PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONTRACEMALLOC"])
def test_switches_that_slow_python_down_are_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With traces of the memory doctor took minutes; Python starts again without them, once."""
    monkeypatch.setenv(name, "1")
    assert entry_point._correct_python_variables()
    assert name not in os.environ
    assert not entry_point._correct_python_variables()


CONTAINERS = {
    "no affinity": ("EPERM", "sched_getaffinity", "from relearn.model.devices import *; cpu_count()", ""),
    "no free space": ("ENOSYS", "statfs fstatfs", CHECK_ALL, ""),
    "no socket pairs": ("EPERM", "socketpair", CHECK_ALL, "no socketpair: Operation not permitted"),
    "no threads": (
        "EPERM",
        "clone3",
        "from relearn.flows.process.system_limits import *; check_first_thread()",
        "allow the system calls clone and clone3",
    ),
}


@pytest.mark.parametrize(("error", "calls", "code", "reason"), CONTAINERS.values(), ids=CONTAINERS)
def test_call_that_a_container_refuses_is_named_if_it_is_needed(
    error: str, calls: str, code: str, reason: str, tmp_path: Path
) -> None:
    """The number of cores and the free space are not needed; threads and pairs of sockets are."""
    result = run_refused(error, calls, [sys.executable, "-P", "-c", code], tmp_path / "home")
    assert bool(reason) == bool(result.returncode)
    assert reason in result.stderr


def test_temporary_server_ends_where_signals_are_refused(tmp_path: Path) -> None:
    """It ends with the pipe of its standard input, and nothing is printed."""
    code = '''
import subprocess, sys
from relearn.flows.orchestration.connect import _terminate
server = """from relearn.flows.orchestration.temporary_server import _exit_with_parent
print(1, flush=True)
_exit_with_parent()"""
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
process = subprocess.Popen([sys.executable, "-P", "-c", server], **pipes)
process.stdout.readline()
_terminate(process)
print(process.returncode)
'''
    result = run_refused("EPERM", "kill pidfd_send_signal", [sys.executable, "-P", "-c", code], tmp_path)
    assert ("0\n", "") == (result.stdout, result.stderr)
