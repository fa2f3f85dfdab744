"""Client of the REST API of a Prefect server.

It does not import Prefect: the import takes seconds, creates a folder, and may be what fails.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import httpx

from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.process.timeouts import iterate_with_timeout
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home

WORK_POOL = "relearn"  # of the workers that run scheduled flows
ZOMBIE_AUTOMATION = "relearn: close runs without heartbeat"
FLOWS = ("train", "retrain", "release", "monitor", "prune")
SCHEDULED_FLOWS = ("retrain", "monitor")  # each has one deployment per model, with the model's name
PROCESS_LABEL = "relearn.process"  # of a flow run: the process that runs it, or the worker that claimed it
PICKUP_GRACE = timedelta(seconds=30)  # for a healthy worker to claim a due run; it polls every 5 seconds
OPEN_STATES = ("PENDING", "RUNNING", "CANCELLING", "PAUSED")

TIMEOUT_SECONDS = 2.0  # for a response, while a user waits
WORKER_TIMEOUT_SECONDS = 10.0  # for a response, in the threads of a worker

JsonObject = Mapping[str, Any]
ServerState = Literal["up", "absent", "silent", "foreign", "unauthorized", "other_home"]
STATE_PROBLEMS: Mapping[ServerState, str] = {
    "silent": "takes connections, and does not answer",
    "foreign": "is no Prefect server",
    "unauthorized": "asks for a password",
    "other_home": "belongs to the relearn up of another home",
}
PASSWORD_FIX = "set PREFECT_API_AUTH_STRING to its user:password"  # noqa: S105 names the variable


@dataclass(frozen=True)
class PrefectApi:
    """Client of the API at `api_url`; `auth` is user:password, by default from `PREFECT_API_AUTH_STRING`.

    With `home`, which nobody gives for a server that the user has named, the `relearn up` of another home is
    a server in a state of its own: two homes never meet.
    """

    api_url: str
    auth: str = field(default_factory=lambda: os.environ.get("PREFECT_API_AUTH_STRING", ""), repr=False)
    timeout_seconds: float = TIMEOUT_SECONDS
    home: Home | None = None

    @classmethod
    def from_environment(cls, home: Home, timeout_seconds: float = TIMEOUT_SECONDS) -> "PrefectApi":
        """Return a client for `PREFECT_API_URL`, else for `relearn up`, else for Prefect's default port."""
        local_stack = LocalStack.read(home)
        host = os.environ.get("PREFECT_SERVER_API_HOST") or "127.0.0.1"
        port = os.environ.get("PREFECT_SERVER_API_PORT") or "4200"
        local_url = local_stack.service_urls.get("prefect") if local_stack else None
        if configured_url := os.environ.get("PREFECT_API_URL"):
            return cls(configured_url.rstrip("/"), timeout_seconds=timeout_seconds)
        api_url = f"{local_url or f'http://{host}:{port}'}/api"
        return cls(api_url, timeout_seconds=timeout_seconds, home=home)

    @property
    def ui_url(self) -> str:
        return self.api_url.removesuffix("/api")

    def get_state(self) -> ServerState:
        """Return the state of the server; takes at most two timeouts, even if the response is very slow."""
        try:
            return next(iterate_with_timeout(2 * self.timeout_seconds, lambda: [self._probe()]))
        except TimeoutError:
            return "silent"

    def _probe(self) -> ServerState:
        try:
            if self._request("GET", "/health").json() is not True:
                return "foreign"
            response = self._request("GET", "/admin/version")  # the health of a server needs no password
            if response.status_code == httpx.codes.UNAUTHORIZED:
                return "unauthorized"
            if self._is_of_other_home():
                return "other_home"
            return "up" if isinstance(response.json(), str) else "foreign"
        except httpx.ConnectError:
            return "absent"
        except httpx.TimeoutException:
            return "silent"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
            return "foreign"

    def _is_of_other_home(self) -> bool:
        """Return whether the server runs in Prefect's folder of another home, which is up."""
        if self.home is None:
            return False
        root = Path(self._request("GET", "/admin/settings").json()["home"]).parent
        return root.resolve() != self.home.root.resolve() and bool(LocalStack.read(Home(root, root)))

    def is_up(self) -> bool:
        """Return whether a server runs; raises `InfrastructureError` if it cannot be used."""
        state = self.get_state()
        if state in STATE_PROBLEMS:
            raise self.error(state)
        return state == "up"

    def error(self, state: ServerState) -> InfrastructureError:
        """Return the error for a server in `state`, which is in `STATE_PROBLEMS`."""
        advice = f": {PASSWORD_FIX}" if state == "unauthorized" else ""
        return InfrastructureError(f"{self.ui_url} {STATE_PROBLEMS[state]}{advice}")

    def get_version(self) -> str:
        return str(self._request("GET", "/admin/version").json())

    def get_work_pool(self) -> JsonObject | None:
        """Return the work pool `WORK_POOL`; None before the first deployment."""
        return self._row(f"/work_pools/{WORK_POOL}")

    def list_workers(self) -> list[JsonObject]:
        return self._query(f"work_pools/{WORK_POOL}/workers")

    def list_automations(self) -> list[JsonObject]:
        """Return the automations that mark runs without heartbeat as crashed; one is expected."""
        return self._query("automations", automations=_name_filter(ZOMBIE_AUTOMATION))

    def list_deployments(self, name: str | None = None) -> list[JsonObject]:
        """Return the deployments of model `name`, by default of all; the key `flow_name` is added to each."""
        flow_rows = self._query("flows", flows=_name_filter(*SCHEDULED_FLOWS))
        flow_names = {flow["id"]: flow["name"] for flow in flow_rows}
        deployment_filter = _name_filter(name) if name else {}
        rows = self._query("deployments", deployments=deployment_filter, flows=_name_filter(*SCHEDULED_FLOWS))
        return [{**row, "flow_name": flow_names.get(row["flow_id"], "")} for row in rows]

    def find_next_run_time(self, deployment: JsonObject) -> datetime | None:
        """Return the start time of the next scheduled run of `deployment`; None if there is none."""
        scheduled = _state_filter("SCHEDULED")
        runs = self._query_runs(deployment["id"], scheduled, "EXPECTED_START_TIME_ASC", 1)
        return parse_time(runs[0]["expected_start_time"]) if runs else None

    def find_last_begun(self, deployment_id: str) -> JsonObject | None:
        """Return the run of a deployment that began last, whatever its state.

        Skips runs that Prefect cancelled because another was active: they have a start time, but never ran.
        """
        started = self._query_runs(deployment_id, {"start_time": {"is_null_": False}}, "START_TIME_DESC", 20)
        return next((run for run in started if run["run_count"]), None)

    def find_last_ended(self, deployment: JsonObject, *states: str) -> JsonObject | None:
        """Return the run of `deployment` that ended last in one of these states."""
        return next(
            iter(self._query_runs(deployment["id"], _state_filter(*states), "END_TIME_DESC", 1)), None
        )

    def is_busy(self, deployment_id: str) -> bool:
        """Return whether a run of a deployment is open."""
        return bool(self._query_runs(deployment_id, _state_filter(*OPEN_STATES), "START_TIME_DESC", 1))

    def list_overdue_runs(self, deployment: JsonObject) -> list[JsonObject]:
        """Return the due runs of `deployment` that no worker has claimed."""
        cutoff = {"before_": (datetime.now(UTC) - PICKUP_GRACE).isoformat()}
        run_filter = _state_filter("SCHEDULED") | {"next_scheduled_start_time": cutoff}
        return self._query_runs(deployment["id"], run_filter, "NEXT_SCHEDULED_START_TIME_ASC")

    def list_open_runs(self) -> list[JsonObject]:
        """Return the runs of our flows that are neither ended nor waiting for their time."""
        return self._query(
            "flow_runs", flows=_name_filter(*FLOWS), flow_runs=_state_filter(*OPEN_STATES), limit=200
        )

    def list_interrupted_retrainings(self, since: datetime) -> list[JsonObject]:
        """Return the last retraining of each deployment that crashed or failed after `since`."""
        run_filter = _state_filter("CRASHED", "FAILED") | {
            "end_time": {"after_": since.isoformat()},
            "deployment_id": {"is_null_": False},
        }
        flows, sort = _name_filter("retrain"), "END_TIME_DESC"
        runs = self._query("flow_runs", flows=flows, flow_runs=run_filter, sort=sort, limit=200)
        return list({run["deployment_id"]: run for run in reversed(runs)}.values())

    def find_flow_id(self, name: str) -> str | None:
        """Return the id of a flow; None before its first run."""
        flow = self._row(f"/flows/name/{name}")
        return str(flow["id"]) if flow else None

    def get_flow_run(self, run_id: str) -> JsonObject | None:
        """Return the flow run of this id; None if it does not exist or was deleted."""
        return self._row(f"/flow_runs/{run_id}")

    def list_states(self, run: JsonObject) -> list[JsonObject]:
        """Return all states of `run`, oldest first."""
        rows: list[JsonObject] = self._parse_response(
            self._request("GET", f"/flow_run_states/?flow_run_id={run['id']}")
        )
        return rows

    def find_last_heartbeat(self, run: JsonObject) -> datetime | None:
        """Return the time of the last heartbeat of `run`; None if there is none."""
        event_filter = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
        }
        body = {"filter": event_filter, "limit": 1}  # the newest comes first
        events = self._parse_response(self._request("POST", "/events/filter", body))["events"]
        return parse_time(events[0]["occurred"]) if events else None

    def end_run(self, run: JsonObject, state: Literal["CRASHED", "CANCELLED"], message: str) -> None:
        """End a run whose process is gone, and its tasks, whatever their state."""
        tasks = self._query(
            "task_runs",
            flow_runs={"id": {"any_": [run["id"]]}},
            task_runs=_state_filter("PENDING", "RUNNING"),
        )
        body = {"state": {"type": state, "name": state.capitalize(), "message": message}, "force": True}
        for task in tasks:
            self._parse_response(self._request("POST", f"/task_runs/{task['id']}/set_state", body))
        self._set_state(run, body)

    def reschedule(self, run: JsonObject, scheduled_at: datetime, reason: str) -> None:
        """Schedule an ended run again, as the retry button of Prefect's UI does."""
        state_details = {"scheduled_time": scheduled_at.isoformat()}
        state = {
            "type": "SCHEDULED",
            "name": "AwaitingRetry",
            "message": reason,
            "state_details": state_details,
        }
        self._set_state(run, {"state": state})

    def list_late_runs(self) -> list[JsonObject]:
        """Return runs whose start time has passed and that no worker has claimed."""
        state_filter = {"name": {"any_": ["Late"]}}
        return self._query("flow_runs", flow_runs={"state": state_filter}, sort="EXPECTED_START_TIME_ASC")

    def _query_runs(
        self, deployment_id: str, run_filter: JsonObject, sort: str, limit: int = 200
    ) -> list[JsonObject]:
        deployments = {"id": {"any_": [deployment_id]}}
        return self._query("flow_runs", deployments=deployments, flow_runs=run_filter, sort=sort, limit=limit)

    def _set_state(self, run: JsonObject, body: JsonObject) -> None:
        result = self._parse_response(self._request("POST", f"/flow_runs/{run['id']}/set_state", body))
        if result["status"] != "ACCEPT":
            reason = result["details"].get("reason")
            raise InfrastructureError(
                f"{self.ui_url} rejected the state {body['state']['name']} of {run['name']}: {reason}"
            )

    def _row(self, path: str) -> JsonObject | None:
        response = self._request("GET", path)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        row: JsonObject = self._parse_response(response)
        return row

    def _query(self, collection: str, **body: Any) -> list[JsonObject]:
        rows: list[JsonObject] = self._parse_response(self._request("POST", f"/{collection}/filter", body))
        return rows

    def _request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._client.request(method, self.api_url + path, json=body)

    @cached_property
    def _client(self) -> httpx.Client:
        """Return the client of all requests: making one takes 15 ms, a connection to this machine none."""
        auth = httpx.BasicAuth(*self.auth.split(":", 1)) if ":" in self.auth else None
        limits = httpx.Limits(max_keepalive_connections=0)  # a server may restart between two requests
        return httpx.Client(auth=auth, timeout=self.timeout_seconds, trust_env=False, limits=limits)

    def _parse_response(self, response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        raise InfrastructureError(f"{self.ui_url} answers {response.status_code} {response.reason_phrase}")


def _name_filter(*names: str) -> dict[str, Any]:
    return {"name": {"any_": list(names)}}


def _state_filter(*states: str) -> dict[str, Any]:
    return {"state": {"type": {"any_": list(states)}}}


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
