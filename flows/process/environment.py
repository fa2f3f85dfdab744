"""Environment variables of every Relearn process, set before the tools that read them are imported.

Of the user's MLFLOW_, PREFECT_, BENTOML_, … variables only those in `HONORED_PREFIXES` are kept; all others
are removed.
"""

import getpass
import importlib.util
import io
import os
import re
import runpy
import ssl
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr
from pathlib import Path

from pydantic import ValidationError

from relearn.model.config import format_problems
from relearn.model.errors import ConfigError, UserInputError
from relearn.model.home import Home, sqlite_url
from relearn.serving.config import is_set_by_kubernetes

HEARTBEAT_INTERVAL_SECONDS = 30  # the minimum that Prefect accepts

# Prefixes of the variables of each tool that are kept, in addition to those set here. All others are removed:
# with MLFLOW_RUN_ID, for example, Relearn would write into the run of another project.
HONORED_PREFIXES = {
    "PREFECT_": (
        *("API_AUTH_STRING", "API_KEY", "API_SSL_CERT_FILE", "API_TLS_INSECURE_SKIP_VERIFY", "API_URL"),
        *("CLIENT_", "LOGGING_", "SERVER_API_HOST", "SERVER_API_PORT", "UI_URL", "WORKER_"),
    ),
    "MLFLOW_": (
        *(
            "ARTIFACT_",
            "ENABLE_MULTIPART_",
            "ENABLE_PROXY_MULTIPART_",
            "ENABLE_SYSTEM_METRICS_LOGGING",
            "GCS_",
        ),
        *("HTTP_REQUEST_", "MULTIPART_", "S3_", "SYSTEM_METRICS_", "TRACKING_"),
    ),
    "BENTOML_": (),
    "OTEL_": ("EXPORTER_", "RESOURCE_ATTRIBUTES", "SDK_DISABLED", "SERVICE_NAME"),
    # The web servers of Prefect, MLflow and BentoML get their options as arguments.
    "UVICORN_": (),
    "GUNICORN_CMD_ARGS": (),
    "WEB_CONCURRENCY": (),
    # Files on remote disks and names of runs, of which Relearn changes nothing.
    "FSSPEC_": (),
    "COOLNAME_": (),
    # A folder with metrics of another program; the prediction API sets its own.
    "PROMETHEUS_MULTIPROC_DIR": (),
}
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


def set_tool_defaults(home: Home) -> list[str]:
    """Set the variables of the tools: files in `home`, little output, no proxy for this machine.

    Return the names of variables that were removed, since they have no effect. Raise `UserInputError` for an
    unusable proxy, certificate file or number.
    """
    ignored_variables = _remove_unsupported(tool_defaults(home))
    _check_proxies_and_certificates()
    _check_mlflow_variables()
    _ensure_user_and_home(home)
    _make_paths_absolute()
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK_HOSTS]))
    # Child processes import no module from the current folder, open no window, and keep docstrings, which
    # BentoML reads.
    os.environ |= {"PYTHONSAFEPATH": "1", "MPLBACKEND": "agg"}
    for name in ("PYTHONOPTIMIZE", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    for name, value in tool_defaults(home).items():
        os.environ.setdefault(name, value)
    return ignored_variables


def tool_defaults(home: Home) -> dict[str, str]:
    """Return the variables, with values, that `set_tool_defaults` sets if the user has not set them."""
    return {
        "PREFECT_HOME": str(home.prefect),
        "BENTOML_HOME": str(home.bentoml),
        "MPLCONFIGDIR": str(home.root / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(home.root / "torchinductor"),  # default: /tmp
        # Threads that wait for each other spin for a fraction of a millisecond, then sleep. By default they
        # spin on: beside two busy processes on two cores four epochs of the mlp on digits then take 4 to 22 s
        # instead of 2 to 8. On an idle machine both take the same time; without spinning MNIST takes longer.
        "GOMP_SPINCOUNT": "100000",
        "FSSPEC_CONFIG_DIR": str(home.root / "fsspec"),  # does not exist; default: in the user's home folder
        # A flow run without a heartbeat for longer than this counts as crashed.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_INTERVAL_SECONDS),
        # No telemetry: each of the three tools has a switch of its own, the Prefect server a second one.
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Prefect's server deletes events, by default only these, and runs that ended 90 days ago.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3_600),
        # Prefect's log, with tracebacks, is shown in its UI, not on the terminal.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # By default Prefect writes these files where it is installed, which may be read-only.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home.prefect / "ui"),
        # An unreachable store is reported within half a minute; the defaults take several minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "PGCONNECT_TIMEOUT": "10",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # Models loaded through MLflow must not execute code of their own.
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        # joblib, which MLflow imports, makes a semaphore and warns where it may not; nothing here uses one.
        "JOBLIB_MULTIPROCESSING": "0",
    }


def user_variables() -> dict[str, str]:
    """Return proxies and variables of the tools that have an effect and were not set by Relearn."""
    defaults = tool_defaults(Home.from_environment())
    names = [*(name for name in os.environ if name.startswith(tuple(HONORED_PREFIXES))), *_proxy_variables()]
    return {name: os.environ[name] for name in sorted(names) if os.environ[name] != defaults.get(name)}


def redact_password(uri: str) -> str:
    """Return `uri`, which a proxy may have without a scheme, with its password or token replaced by `…`."""
    return re.sub(r"(^(?!\w+:/)|//)([^/:@]*:)?(?(2).*|[^/@]+)@", r"\1\2…@", uri)


def _remove_unsupported(defaults: Mapping[str, str]) -> list[str]:
    """Remove unsupported variables; return their names, except those set by Kubernetes and empty ones."""
    removed = []
    for name, value in list(os.environ.items()):
        prefix = next((prefix for prefix in HONORED_PREFIXES if name.startswith(prefix)), None)
        if is_set_by_kubernetes(name, value) or (prefix and not value):
            del os.environ[name]
        elif (
            prefix
            and name not in defaults
            and not name.removeprefix(prefix).startswith(HONORED_PREFIXES[prefix])
        ):
            removed.append(name)
            del os.environ[name]
    return sorted(removed)


def _proxy_variables() -> list[str]:
    return [name for name in os.environ if name.upper() in PROXY_VARIABLES and os.environ[name]]


def _check_proxies_and_certificates() -> None:
    """Raise `UserInputError` for proxies or certificates that no HTTP client could use."""
    if _proxy_variables():
        import httpx  # takes 0.1 s
    for name in _proxy_variables():
        try:
            httpx.Proxy(value if "://" in (value := os.environ[name]) else f"http://{value}")
        except (ValueError, httpx.InvalidURL):
            raise UserInputError(
                f"{name}: got {redact_password(os.environ[name])!r}, accepted: http://host:port, https://… or socks5://…"
            ) from None
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (path := os.environ.get(name)) and not Path(path).exists():
            raise UserInputError(f"{name}: got {path!r}, which does not exist; accepted: certificates")
    if file := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            raise UserInputError(f"SSL_CERT_FILE: got {file!r}, accepted: certificates: {error}") from None
    if (file := os.environ.get("SSLKEYLOGFILE")) and not Path(file).parent.is_dir():
        raise UserInputError(f"SSLKEYLOGFILE: got {file!r}, accepted: a file in an existing folder, or unset")


def _check_mlflow_variables() -> None:
    """Raise `UserInputError` for a value that MLflow would refuse in the middle of a run.

    The module of MLflow that knows them is run without the others, whose import takes 2 s.
    """
    names = [name for name in os.environ if name.startswith("MLFLOW_")]
    spec = importlib.util.find_spec("mlflow") if names else None
    if spec is None or spec.origin is None:
        return
    variables = runpy.run_path(str(Path(spec.origin).with_name("environment_variables.py")))
    for name in set(names) & set(variables):
        try:
            variables[name].get()
        except ValueError:
            accepted = f"a valid {variables[name].type.__name__}"
            raise UserInputError(f"{name}: got {os.environ[name]!r}, accepted: {accepted}") from None


def _make_paths_absolute() -> None:
    """Make the paths of the tools absolute, since their servers run in other folders."""
    for name in ("PREFECT_HOME", "BENTOML_HOME"):
        if name in os.environ:
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    relative_sqlite = re.fullmatch(r"sqlite:///([^/:?][^?]*)", os.environ.get("MLFLOW_TRACKING_URI", ""))
    if relative_sqlite:
        os.environ["MLFLOW_TRACKING_URI"] = sqlite_url(Path(relative_sqlite[1]).absolute())


def _ensure_user_and_home(home: Home) -> None:
    """Set a user name and `HOME` if there is no usable one; the tools read both when they are imported."""
    try:
        getpass.getuser().encode()  # MLflow stores it, its database only as UTF-8
    except (KeyError, OSError, UnicodeEncodeError):  # OSError since Python 3.13
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    try:
        home_exists = Path.home().is_dir()
    except (RuntimeError, OSError):
        home_exists = False
    if not home_exists:
        os.environ["HOME"] = str(home.root)


def load_prefect(home: Home) -> None:
    """Import Prefect and load its settings; raise `ConfigError` if one is invalid.

    Prefect reads .env, prefect.toml and pyproject.toml of the working directory; another project's file there
    could point it to another database. It is therefore imported with `home.prefect` as working directory.
    """
    home.prefect.mkdir(0o700, parents=True, exist_ok=True)
    try:
        with chdir(home.prefect), redirect_stderr(io.StringIO()):  # it prints the same error
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        setting_names = [str(detail["loc"][-1]) for detail in error.errors()]
        raise ConfigError(
            format_problems(error, {}, {name: _find_prefect_variable(name) for name in setting_names})
        ) from None


def _find_prefect_variable(setting: str) -> str:
    """Return the environment variable that has set `setting`; its name ends with the setting's."""
    names = [name for name in os.environ if name.startswith("PREFECT_")]
    return next((name for name in names if name.endswith(f"_{setting.upper()}")), f"PREFECT_…_{setting}")


@contextmanager
def short_mlflow_timeouts() -> Iterator[None]:
    """Limit requests to the MLflow server in the block to one attempt of three seconds."""
    short_timeouts = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    previous = {name: os.environ[name] for name in short_timeouts if name in os.environ}
    os.environ.update(short_timeouts)
    try:
        yield
    finally:
        for name in short_timeouts:
            del os.environ[name]
        os.environ.update(previous)
