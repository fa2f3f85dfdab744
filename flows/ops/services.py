"""The services of `relearn up`: their commands, ports and health checks."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.discovery import find_running_servers

# Scripts of the tools may lie elsewhere than Python, as after pip install --user.
PYTHON_MODULE = (sys.executable, "-m")


@dataclass(frozen=True)
class Service:
    """A program that listens on `host` and `port`; the flag `port_flag` of `relearn up` sets the port.

    `ui_path` is the path of its UI. `health_path` answers with 200 as soon as the program is up.
    """

    name: str
    command: tuple[str, ...]
    port: int
    port_flag: str
    health_path: str
    ui_path: str = ""
    host: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def is_healthy(self, client: httpx.Client) -> bool:
        try:
            return client.get(self.url + self.health_path).is_success
        except httpx.HTTPError:
            return False


def make_http_client() -> httpx.Client:
    """Return an HTTP client for all health checks: the construction of one takes 15 ms."""
    return httpx.Client(timeout=2, trust_env=False)


def services(
    home: Home, name: str, config: ServeConfig, prefect_port: int, mlflow_port: int, worker_port: int
) -> Iterator[Service]:
    """Yield the services to start, in start order; they are stopped in reverse order.

    Skips MLflow's server if tracking is remote, Prefect's server if one answers on its port that is not of
    another home, and the API if one serves `name` from this home. Raises `InfrastructureError` if Prefect's
    server asks for a password.
    """
    address_flags = ("--host", "127.0.0.1", "--port")
    prefect = Service(
        "prefect",
        (*PYTHON_MODULE, "prefect", "server", "start", *address_flags, str(prefect_port)),
        prefect_port,
        "--prefect-port",
        "/api/health",
        environment={
            # By default pages of any site may send requests to it.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{prefect_port},http://localhost:{prefect_port}",
            # Concurrency leases: if kept in memory, a restart would end every run within four minutes.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        },
    )
    configured_url = os.environ.get("PREFECT_API_URL")
    prefect_api = (
        PrefectApi(configured_url) if configured_url else PrefectApi(f"{prefect.url}/api", home=home)
    )
    if (prefect_state := prefect_api.get_state()) == "unauthorized":
        raise prefect_api.error(prefect_state)
    if not configured_url and prefect_state != "up":
        yield prefect
    quiet = ("--uvicorn-opts", "--no-access-log")  # health checks alone are 5 MB a day
    if not home.tracking_uri.startswith("http"):
        yield Service(
            "mlflow",
            (*PYTHON_MODULE, "mlflow", "server", "--workers", "1", *address_flags, str(mlflow_port), *quiet),
            mlflow_port,
            "--mlflow-port",
            "/health",
            environment={
                "MLFLOW_BACKEND_STORE_URI": home.tracking_uri,
                "MLFLOW_ARTIFACTS_DESTINATION": str(home.artifacts),  # by default the current folder
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
    yield Service(
        "worker",
        (*PYTHON_MODULE, "relearn.flows.scheduling.worker", name),
        worker_port,
        "--worker-port",
        "/health",
        environment={
            "PREFECT_API_URL": os.environ.get("PREFECT_API_URL") or f"{prefect.url}/api",
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(worker_port),
        },
    )
    if not any(server.model_name == name for server in find_running_servers(home)):
        yield Service(
            "api",
            (*PYTHON_MODULE, "relearn", "serve", "--allow-empty", "--model-name", name),
            config.port,
            "--port",
            "/livez",
            ui_path="/draw",
            host=config.host,
            environment=config.to_environment(),
        )
