"""Environments that Relearn runs in: each has no effect or is rejected by name, also by doctor."""

import getpass
import importlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.process import environment, system_limits
from relearn.flows.process.shutdown import run_with_exit_code
from relearn.flows.tracking.runs import Experiment
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home
from relearn.model.ports import find_free_port

Capture = pytest.CaptureFixture[str]
TRAIN = ["train", "--dataset", "digits", "--epochs", "1"]
IGNORING_CTRL_C = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a background job of a script does
NAMELESS_USER = ["unshare", "--user", "--map-user=4711", "--map-group=4711"]  # owns root's files

# Files that another project may have in a folder: modules named like ours or like libraries, tool settings.
MODULES = ("flows", "model", "serving", "random", "supervisor", "mlflow", "torch", "uvicorn", "bentoml")
FILES = {
    "pyproject.toml": '[tool.prefect.server.database]\nconnection_url = "{url}"\n',
    "prefect.toml": '[api]\nurl = "http://127.0.0.1:9/api"\n[server.database]\nconnection_url = "{url}"\n',
    "matplotlibrc": "text.usetex: True\nbackend: nonsense\n",
    ".env": "PREFECT_API_URL=http://127.0.0.1:9/api\nPREFECT_SERVER_DATABASE_CONNECTION_URL={url}\n",
}
FOREIGN_VARIABLES = {
    # A proxy that accepts connections and never responds; see `silent_proxy`.
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:{port}"),
    **dict.fromkeys(("ALL_PROXY", "all_proxy"), "socks5://127.0.0.1:{port}"),
    **{
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_EXPERIMENT_NAME": "theirs",
        "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    },
    **{
        "PREFECT_PROFILES_PATH": "/nowhere",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///theirs",
    },
    **{"BENTOML_CONFIG": "/nowhere", "BENTOML_PORT": "9", "WEB_CONCURRENCY": "3", "UVICORN_PORT": "9"},
    **{
        "COOLNAME_DATA_MODULE": "nowhere",
        "COOLNAME_DATA_DIR": "/nowhere",
        "FSSPEC_FILE": '{"auto_mkdir": 1}',
    },
    **{
        "RELEARN_PORT": "tcp://10.0.0.1:80",
        "RELEARN_SERVICE_HOST": "10.0.0.1",
        "RELEARN_PORT_80_TCP_PORT": "80",
    },
    **{
        "MPLBACKEND": "nonsense",
        "OTEL_PROPAGATORS": "nonsense",
        "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "TMPDIR": "/nowhere",
        "LC_ALL": "C",
    },
}


@pytest.fixture
def silent_proxy() -> Iterator[int]:
    """The port of a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def run_as_nameless_user(
    command: list[str], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run relearn in `folder` as a user with an id but no name, with only these variables."""
    try:
        subprocess.run([*NAMELESS_USER, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare --user is needed for a user without a name")
    return subprocess.run(
        [*NAMELESS_USER, sys.executable, "-P", "-m", "relearn", *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
        umask=0o077,
        check=False,
    )


def make_foreign_project(parent: Path) -> Path:
    """Make a folder with modules and settings of another project; an import of one writes `imported`."""
    folder = parent / "a project"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_text(content.format(url=f"sqlite+aiosqlite:///{parent / 'theirs.db'}"))
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(parent / 'imported')!r}, 'a').write(__name__)")
    return folder


@pytest.mark.slow
def test_up_ignores_files_of_current_folder(tmp_path: Path) -> None:
    """Supervisor, the Prefect and MLflow servers, the worker and the API; no log has their health checks."""
    folder, home = make_foreign_project(tmp_path), tmp_path / "home"
    flags = ("--prefect-port", "--mlflow-port", "--worker-port", "--port")
    ports = [word for flag in flags for word in (flag, str(find_free_port()))]
    process = subprocess.Popen(
        [*IGNORING_CTRL_C, sys.executable, "-P", "-m", "relearn", "up", "--model-name", "digits", *ports],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "RELEARN_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    services_up: set[str] = set()
    while len(services_up) < len(flags) and (line := process.stdout.readline()):
        services_up |= {words[1] for words in [line.split()] if words[2] == "up"}
    process.send_signal(signal.SIGINT)
    process.communicate()

    assert {"prefect", "mlflow", "worker", "api"} == services_up
    assert {folder, home} == set(tmp_path.iterdir())
    assert [] == [log.name for log in home.glob("up/*.log") if "/health" in log.read_text()]


def test_ctrl_c_during_import_is_one_line(tmp_path: Path) -> None:
    """From the first import of our own code on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'relearn.flows.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "relearn", "doctor", "--settings"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (130, "error[stopped]: ended by Ctrl-C\n") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_foreign_environment_has_no_effect(tmp_path: Path, silent_proxy: int) -> None:
    """All of it at once, in a complete run: nothing outside of the home is written or imported."""
    folder, user, home = make_foreign_project(tmp_path), tmp_path / "a user", tmp_path / "h%41 #ü' [x]"
    (user / ".config" / "fsspec").mkdir(parents=True)
    (user / ".config" / "fsspec" / "conf.json").write_text("{no JSON")
    user.chmod(0o555)
    before = sorted(folder.iterdir())

    foreign = {name: value.format(port=silent_proxy) for name, value in FOREIGN_VARIABLES.items()}
    run = ["run", *TRAIN[1:], "--network", "mlp"]
    done = run_as_nameless_user(run, folder, HOME=str(user), RELEARN_HOME=str(home), **foreign)

    assert 0 == done.returncode, done.stderr
    assert "version 1 is live" in " ".join(done.stdout.split())
    assert done.stderr.startswith(
        "warning: ignored, since they have no effect here: BENTOML_CONFIG, BENTOML_PORT, "
    )
    assert 1 == len(done.stderr.splitlines())
    assert before == sorted(folder.iterdir())
    assert [user / ".config"] == list(user.iterdir())
    assert {folder, user, home} == set(tmp_path.iterdir())


def test_user_without_name_and_home_passes_doctor(tmp_path: Path) -> None:
    """The tools read both when they are imported."""
    done = run_as_nameless_user(["doctor"], tmp_path, RELEARN_HOME=str(tmp_path / "home"))
    assert (0, "") == (done.returncode, done.stderr)
    assert ", 0 warnings, 0 failed" in done.stdout


@pytest.mark.needs("sh")
def test_closed_standard_streams_are_accepted(tmp_path: Path) -> None:
    """The exit code is the same as with open streams."""
    command = f"exec {sys.executable} -m relearn history <&- >&- 2>&-"
    closed = subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False)
    assert 2 == closed.returncode


@pytest.mark.needs("sh")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", ["doctor --settings", "--version", "--help"])
def test_full_standard_output_is_one_line(arguments: str) -> None:
    """Exit code 3, and no message of Python at its exit."""
    command = f"exec {sys.executable} -m relearn {arguments} >/dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error[infrastructure]: ")
    assert "No space left on device: standard output" in line
    assert 3 == done.returncode


@pytest.mark.slow
def test_two_concurrent_first_trainings_share_a_new_home(tmp_path: Path) -> None:
    """Both succeed while tables are created and the same data is logged."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "relearn", *TRAIN],
            env={
                **os.environ,
                "RELEARN_HOME": str(tmp_path / "home"),
                "PREFECT_HOME": str(tmp_path / "prefect"),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [b"", b""] == [process.communicate()[1] for process in processes]
    assert [0, 0] == [process.returncode for process in processes]


@pytest.mark.parametrize(
    "limit", ["MIN_OPEN_FILES", "MIN_FILE_BYTES", "MIN_ADDRESS_BYTES", "MIN_CPU_SECONDS"]
)
def test_too_low_system_limit_is_reported(
    limit: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """By train and by doctor, where the system allows less than is needed."""
    kinds = {
        "MIN_OPEN_FILES": (resource.RLIMIT_NOFILE, 1_000),
        "MIN_FILE_BYTES": (resource.RLIMIT_FSIZE, 50_000_000),
        "MIN_ADDRESS_BYTES": (resource.RLIMIT_AS, 10**14),
        "MIN_CPU_SECONDS": (resource.RLIMIT_CPU, 10**6),
    }
    kind, allowed = kinds[limit]
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (allowed if before[0] < 0 else before[0], before[1]))
    monkeypatch.setattr(system_limits, limit, 10**15)
    try:
        assert 3 == run_command_line(TRAIN)
        assert "ulimit" in capsys.readouterr().err
        assert 3 == run_command_line(["doctor"])
        assert "ulimit" in capsys.readouterr().out
    finally:
        resource.setrlimit(kind, before)


BLOCK_SIGNALS = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-m", "relearn", *sys.argv[1:]])
"""

FEW_PROCESSES = """
import os, resource, sys
from pathlib import Path
from relearn.flows.process import system_limits
from relearn.flows.process.shutdown import run_with_exit_code
from relearn.flows.ops.checks import system
from relearn.flows.ops.doctor import run_check
from relearn.model.home import Home

home = Home(Path("/nowhere"), Path("/nowhere"))
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
os.setuid(os.getuid() or 65_534)  # the limit is none for root
exit_code = run_with_exit_code(system_limits.check_limits)
print([(result.state, result.message) for result in run_check(home, "system", "limits")])
sys.exit(exit_code)
"""


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/a/b", "a/memory.max"),
        ("0::/not/mounted/here", "memory.max"),
        ("4:memory:/a/b", "memory/a/b/memory.limit_in_bytes"),
    ],
)
def test_low_memory_of_container_is_named(
    line: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would be killed without a message; the limit may be that of any enclosing control group."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "stat").touch()
    (proc / "self" / "cgroup").write_text(f"1:cpu:/\n{line}\n")
    (cgroups / file).parent.mkdir(parents=True)
    monkeypatch.setattr(system_limits, "PROC", proc)
    monkeypatch.setattr(system_limits, "CGROUPS", cgroups)
    (cgroups / file).write_text("max\n")
    system_limits.check_limits()
    (cgroups / file).write_text("500000000\n")
    with pytest.raises(InfrastructureError, match="memory of this container: got 500,000,000 bytes"):
        system_limits.check_limits()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_missing_proc_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run says how to mount it."""
    monkeypatch.setattr(system_limits, "PROC", tmp_path)
    with pytest.raises(InfrastructureError, match="mount -t proc"):
        system_limits.check_limits()


@pytest.mark.parametrize("line", ["", "192.0.2.1 localhost"])
def test_localhost_that_leads_elsewhere_is_named(line: str, tmp_path: Path) -> None:
    """BentoML's server could not start; the line says what to write into which file."""
    (tmp_path / "hosts").write_text(line)
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    mount = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("hosts", "nsswitch.conf"))
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    try:
        subprocess.run([*isolated, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare --mount is needed for another /etc/hosts")
    done = subprocess.run(
        [*isolated, sys.executable, "-m", "relearn", "serve"], capture_output=True, text=True, check=False
    )
    assert 3 == done.returncode
    assert "add the line 127.0.0.1 localhost to /etc/hosts" in done.stderr


def test_blocked_signals_stop_a_command(tmp_path: Path) -> None:
    """A process inherits the signals that its parent has blocked."""
    os.mkfifo(tmp_path / "settings.toml")
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            BLOCK_SIGNALS,
            "doctor",
            "--settings",
            "--config",
            str(tmp_path / "settings.toml"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    with (tmp_path / "settings.toml").open("w"):  # opens when the command does
        process.terminate()
        try:
            assert "error[stopped]: terminated by a signal\n" == process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert 143 == process.returncode


def test_signal_at_the_exit_prints_nothing() -> None:
    """SIGTERM while child processes are being ended."""
    code = (
        "import atexit, os, signal, sys\n"
        "from relearn import __main__ as program\n"
        "def run():\n"
        "    atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "    atexit.register(print, 'at the exit')\n"
        "    return 3\n"
        "program._import_and_run = run\n"
        "program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (3, "at the exit\n", "") == (done.returncode, done.stdout, done.stderr)


def test_stopped_command_waits_for_no_thread() -> None:
    """Prefect's threads wait for a server, which may wait for a locked database."""
    code = (
        "import threading, time\n"
        "from relearn import __main__ as program\n"
        "program.STOP_SECONDS = 0.1\n"
        "def run():\n"
        "    threading.Thread(target=time.sleep, args=[60]).start()\n"
        "    return 143\n"
        "program._import_and_run = run\n"
        "program.main()\n"
    )
    assert 143 == subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode


def test_files_are_utf8_in_every_locale(tmp_path: Path) -> None:
    """Settings files here; output keeps the encoding of the terminal."""
    (tmp_path / "settings.toml").write_text("epochs = 7  # für später", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "relearn",
            "doctor",
            "--settings",
            "--config",
            str(tmp_path / "settings.toml"),
        ],
        env={**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert (0, b"") == (done.returncode, done.stderr)
    assert done.stdout.isascii()


def test_user_name_has_only_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow stores it, and its database accepts no other bytes."""
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "\udcff")
    environment.set_tool_defaults(Home.from_environment())
    assert f"uid{os.getuid()}" == getpass.getuser()


def test_switches_of_other_projects_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With workspaces MLflow would read another part of a store; a command names what it ignores."""
    for name in ("MLFLOW_ENABLE_WORKSPACES", "MLFLOW_ENABLE_ASYNC_LOGGING", "MLFLOW_ENABLE_MULTIPART_UPLOAD"):
        monkeypatch.setenv(name, "true")
    ignored_variables = environment.set_tool_defaults(Home.from_environment())
    assert {"MLFLOW_ENABLE_ASYNC_LOGGING", "MLFLOW_ENABLE_WORKSPACES"} == set(ignored_variables)
    assert "MLFLOW_ENABLE_WORKSPACES" not in os.environ
    assert "MLFLOW_ENABLE_MULTIPART_UPLOAD" in os.environ


def test_inherited_files_count_towards_the_limit(capsys: Capture) -> None:
    """A process may inherit as many open files as its limit allows; the line names both numbers."""
    open_count, before = psutil.Process().num_fds(), resource.getrlimit(resource.RLIMIT_NOFILE)
    inherited = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_count + 140, before[1]))
    try:
        assert 3 == run_with_exit_code(system_limits.check_limits)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in inherited:
            os.close(descriptor)
    assert f"limit of open files, {open_count + 100:,} of them in use: got {open_count + 140:,}, " in (
        capsys.readouterr().err
    )


def test_limit_of_processes_is_named() -> None:
    """By the check that a run makes first and by doctor, which is the same."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_PROCESSES],
        env={**os.environ, "RELEARN_HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 3 == done.returncode, done.stderr
    (line,) = done.stderr.splitlines()
    assert " more processes and threads can be started here, accepted: 64; ulimit -u unlimited" in line
    assert "[('failed', 'only " in done.stdout


def test_failed_import_of_tool_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """For example torch with TORCH_LOGS=nonsense: name and message of the tool, no traceback."""
    (tmp_path / "broken_tool.py").write_text("raise ValueError('a setting\\nof its own')")
    (tmp_path / "other_tool.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert 3 == run_with_exit_code(lambda: importlib.import_module("broken_tool"))
    line = "error[infrastructure]: broken_tool cannot be imported: ValueError: a setting of its own\n"
    assert line == capsys.readouterr().err
    assert 3 == run_with_exit_code(lambda: exec("from other_tool import missing"))
    assert f"other_tool cannot be imported from {tmp_path / 'other_tool.py'}: " in capsys.readouterr().err


IMPORTS_THAT_FAIL = {
    "variable of its name": ("raise ValueError('bad')", "ValueError: bad; see INNER_TOOL_LEVEL"),
    "variable that it reads": (
        "import os\ndef load(): return int(os.environ['LEVEL_OF_TOOL'])\nload()",
        "ValueError: invalid literal for int() with base 10: 'x'; see LEVEL_OF_TOOL",
    ),
    "file": (
        "import json\nwith open({file!r}) as file: json.load(file)",
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0); see {file}",
    ),
    "module": (
        "import importlib, os\nimportlib.import_module(os.environ['LEVEL_OF_TOOL'])",
        "ModuleNotFoundError: No module named 'x'; see LEVEL_OF_TOOL",
    ),
}


@pytest.mark.parametrize(("code", "reason"), IMPORTS_THAT_FAIL.values(), ids=IMPORTS_THAT_FAIL)
def test_failed_import_names_what_to_correct(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The innermost library, what it said, and the variable or file that it read."""
    settings = tmp_path / "settings.json"
    settings.write_text("x")
    monkeypatch.setenv("INNER_TOOL_LEVEL" if "INNER" in reason else "LEVEL_OF_TOOL", "x")
    (tmp_path / "inner_tool.py").write_text(code.format(file=str(settings)))
    (tmp_path / "outer_tool.py").write_text("import inner_tool")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "inner_tool", raising=False)
    assert 3 == run_with_exit_code(lambda: importlib.import_module("outer_tool"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error\[infrastructure\]: (inner_tool|x) cannot be imported", line)
    assert line.endswith(reason.format(file=settings))


@pytest.mark.parametrize(
    ("library", "variable", "value"),
    [
        ("fsspec", "FSSPEC_FILE", "{"),
        ("coolname", "COOLNAME_DATA_DIR", "/nowhere"),
        ("coolname", "COOLNAME_DATA_MODULE", "nowhere"),
    ],
)
def test_configuration_of_a_library_has_no_effect(
    library: str, variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its variables and its files in the home folder of the user are meant for other programs."""
    (tmp_path / ".config" / "fsspec").mkdir(parents=True)
    (tmp_path / ".config" / "fsspec" / "conf.json").write_text("{no JSON")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    assert [variable] == environment.set_tool_defaults(Home.from_environment())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {library}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ["doctor", "--settings"],
        *(pytest.param(command, marks=pytest.mark.slow) for command in (["doctor"], ["run", *TRAIN[1:]])),
    ],
)
def test_python_path_hides_no_installed_module(command: list[str], tmp_path: Path) -> None:
    """A file with the name of a library or of a module of Python is imported by no process."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    libraries = {name for name in packages_distributions() if re.fullmatch("[a-z][a-z_0-9]*", name)}
    # Namespace packages have no file of their own, so that Python prefers theirs.
    libraries -= {"google", "mpl_toolkits", "opentelemetry"}
    for name in libraries - {"editables", "relearn"} | {"email", "json", "logging", "sqlite3"}:
        (theirs / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)")
    done = subprocess.run(
        [sys.executable, "-m", "relearn", *command],
        env={**os.environ, "PYTHONPATH": str(theirs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert not (tmp_path / "imported").exists()


def test_module_of_current_folder_hides_no_library(tmp_path: Path) -> None:
    """Also with `python -m relearn`, for which Python searches the current folder first."""
    for name in ("email", "random", "rich", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(1)")
    done = subprocess.run(
        [sys.executable, "-m", "relearn", "doctor", "--settings"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_failed_import_of_own_module_keeps_traceback() -> None:
    """It is a bug, not a fault of the machine."""
    with pytest.raises(ImportError, match=r"relearn\.flows\.nothing"):
        run_with_exit_code(lambda: importlib.import_module("relearn.flows.nothing"))
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        run_with_exit_code(lambda: exec("from relearn.flows.process.shutdown import nothing"))


def test_relative_paths_of_the_tools_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their servers run in other folders, where a relative path would mean another file."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PREFECT_HOME": "p",
        "BENTOML_HOME": "b",
        "MLFLOW_TRACKING_URI": "sqlite:///a%41.db",
    }.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        environment.set_tool_defaults(Home.from_environment())
    assert [str(tmp_path / "p"), str(tmp_path / "b")] == [
        os.environ["PREFECT_HOME"],
        os.environ["BENTOML_HOME"],
    ]
    assert f"sqlite:///{tmp_path / 'a%41.db'}" == os.environ["MLFLOW_TRACKING_URI"]
    assert 1 == os.environ["NO_PROXY"].count("127.0.0.1")


def test_compiled_kernels_are_cached_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch makes the folder during any training; by default it would stay in /tmp."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    home = Home.from_environment()
    environment.set_tool_defaults(home)
    assert home.root / "torchinductor" == Path(cache_dir())


def delete_experiment(home: Home) -> None:
    """Delete an experiment in MLflow."""
    experiment = Experiment.open_or_create(home, "digits")
    experiment.client.delete_experiment(experiment.id)


def damage_store(home: Home) -> None:
    """Overwrite the database of MLflow."""
    home.root.mkdir(exist_ok=True)
    (home.root / "mlflow.db").write_bytes(b"no database" * 1_000)


def make_pipe_for_store(home: Home) -> None:
    """Put a named pipe in the place of MLflow's database."""
    home.root.mkdir(exist_ok=True)
    os.mkfifo(home.root / "mlflow.db")


def keep(_home: Home) -> None:
    """Change nothing."""


# Variables, a change of the home, parts of the one line of train and of the output of doctor.
BROKEN = {
    "proxy": (
        {"HTTPS_PROXY": "ftp://proxy"},
        keep,
        "HTTPS_PROXY: got 'ftp://proxy', accepted: http",
        "",
    ),
    "certificates": (
        {"SSL_CERT_FILE": "/nowhere"},
        keep,
        "SSL_CERT_FILE: got '/nowhere', which does not exist",
        "",
    ),
    "number for MLflow": (
        {"MLFLOW_HTTP_REQUEST_TIMEOUT": "soon"},
        keep,
        "MLFLOW_HTTP_REQUEST_TIMEOUT: got 'soon', accepted: a valid int",
        "",
    ),
    "setting": (
        {"RELEARN_BATCH_SIZE": "many"},
        keep,
        "RELEARN_BATCH_SIZE: got 'many', accepted: a v",
        "",
    ),
    "setting of the API": ({"RELEARN_WORKERS": "0"}, keep, "", "RELEARN_WORKERS: got '0', accepted: gr"),
    "file of settings": (
        {"RELEARN_CONFIG": "/nowhere"},
        keep,
        "--config /nowhere cannot be read: No",
        "",
    ),
    "path of the home": (
        {"RELEARN_HOME": "/tmp/a?b"},
        keep,
        "RELEARN_HOME: got '/tmp/a?b', accepted",
        "",
    ),
    "long path": (
        {"RELEARN_HOME": "/tmp" + "/abcdefghi" * 50},
        keep,
        "RELEARN_HOME: got a path of 504 bytes, '/tmp/abcdefghi",
        "",
    ),
    "file for a home": (
        {"RELEARN_HOME": "/etc/passwd"},
        keep,
        "which is a file; accepted: a folder",
        "",
    ),
    "MLflow's server": (
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
        keep,
        "MLflow at http://127.0.0.1:9 cannot be used",
        "",
    ),
    "folder for a store": (
        {"MLFLOW_TRACKING_URI": "file:mlruns"},
        keep,
        "got 'file:mlruns', accepted",
        "",
    ),
    "bytes in the store's path": (
        {"MLFLOW_TRACKING_URI": "sqlite:////tmp/\udcff.db"},
        keep,
        "MLFLOW_TRACKING_URI: got 'sqlite:////tmp/\\udcff.db', accepted",
        "",
    ),
    "file for the folder of the store": (
        {"MLFLOW_TRACKING_URI": "sqlite:////etc/passwd/x/mlflow.db"},
        keep,
        "/etc/passwd/x",
        "mlflow.db cannot be created: /etc/passwd is not writable",
    ),
    "file for the folder of BentoML": (
        {"BENTOML_HOME": "/etc/passwd/x"},
        keep,
        "",
        "this user may not write to /etc/passwd",
    ),
    "database": ({}, damage_store, "mlflow.db cannot be used", "mlflow.db cannot be used"),
    "pipe": ({}, make_pipe_for_store, "mlflow.db is no regular file; move it away", ""),
    "experiment": ({}, delete_experiment, "experiments restore --experiment-id 1", ""),
}


@pytest.mark.parametrize(
    ("variables", "prepare", "train_message", "doctor_message"), BROKEN.values(), ids=BROKEN
)
def test_broken_environment_is_reported_by_train_and_doctor(
    variables: dict[str, str],
    prepare: Callable[[Home], None],
    train_message: str,
    doctor_message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """In one line, without a training or a process that stays; doctor never reports that all is well."""
    prepare(Home.from_environment())
    children = psutil.Process().children()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    if train_message:
        assert run_command_line(TRAIN) in (2, 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert train_message in line
        assert children == psutil.Process().children()
    exit_code = run_command_line(["doctor"])
    printed = capsys.readouterr()
    assert (doctor_message or train_message) in printed.out + printed.err
    assert exit_code in (2, 3) or ", 1 warnings, 0 failed" in printed.out


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "PREFECT_CLIENT_MAX_RETRIES",
            "many",
            "PREFECT_CLIENT_MAX_RETRIES: got 'many', accepted: a valid int",
        ),
        pytest.param(
            "PREFECT_API_URL",
            "http://127.0.0.1:9/api",
            "no Prefect server answers at http://127.0.0.1:9",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_invalid_prefect_setting_is_reported(variable: str, value: str, line: str, tmp_path: Path) -> None:
    """With its variable, by a process that imports Prefect and by doctor."""
    for command in (TRAIN, ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "relearn", *command],
            cwd=tmp_path,
            env={**os.environ, variable: value},
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode in (2, 3)
        assert variable in printed
        assert line in printed
        assert "pydantic.dev" not in printed


def test_config_shows_effective_variables_of_tools(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Proxies and variables of the tools that Relearn has not set; passwords are hidden."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "3")
    assert 0 == run_command_line(["doctor", "--settings"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "PREFECT_CLIENT_MAX_RETRIES" in printed
    assert "HTTPS_PROXY" in printed
    assert "secret" not in printed
    assert "DO_NOT_TRACK" not in printed
