"""The parts that `relearn up` keeps alive: what each is started by, and how one sees that it answers."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from relearn.model.home import Home
from relearn.serving.servers import servers
from relearn.serving.settings import ServeConfig


@dataclass(frozen=True)
class Part:
    """One program on `host` and `port`, which the option `flag` chooses.

    `page` is where people find it, `health` the path that answers 200 once it is up.
    """

    name: str
    command: tuple[str, ...]
    port: int
    flag: str
    health: str
    page: str = ""
    host: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(self.url + self.health).is_success
        except httpx.HTTPError:
            return False


def client() -> httpx.Client:
    """One for many looks: to make one takes 15 ms."""
    return httpx.Client(timeout=2, trust_env=False)


def parts(
    home: Home, name: str, config: ServeConfig, flows_port: int, runs_port: int, runner_port: int
) -> Iterator[Part]:
    """Those that this home needs, in the order in which they are started and, backwards, ended.

    Not a page of runs that lie somewhere else, nor what is there already: Prefect's server that answers
    on its port, and the API of `name` from this home.
    """
    here = ("--host", "127.0.0.1", "--port")
    flows = Part(
        "flows",
        (_program("prefect"), "server", "start", *here, str(flows_port)),
        flows_port,
        "--flows-port",
        "/api/health",
        environment={
            # By default the page of any site may ask it.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{flows_port},http://localhost:{flows_port}",
            # Who holds a place: kept in memory, a restart would end every run within four minutes.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        },
    )
    with client() as asked:
        if "PREFECT_API_URL" not in os.environ and not flows.answers(asked):
            yield flows
    if not home.tracking_uri.startswith("http"):
        yield Part(
            "runs",
            (_program("mlflow"), "server", "--workers", "1", *here, str(runs_port)),
            runs_port,
            "--runs-port",
            "/health",
            environment={
                "MLFLOW_BACKEND_STORE_URI": home.tracking_uri,
                "MLFLOW_ARTIFACTS_DESTINATION": str(home.artifacts),  # else where the user stands
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
    yield Part(
        "runner",
        (sys.executable, "-m", "relearn.flows.runner", name),
        runner_port,
        "--runner-port",
        "/health",
        environment={
            "PREFECT_API_URL": os.environ.get("PREFECT_API_URL") or f"{flows.url}/api",
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(runner_port),
        },
    )
    if not any(server.follows == name for server in servers(home)):
        yield Part(
            "api",
            (_program("relearn"), "serve", "--wait", "--name", name),
            config.port,
            "--port",
            "/livez",
            page="/draw",
            host=config.host,
            environment=config.to_environment(),
        )


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)
