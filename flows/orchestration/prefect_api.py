"""Client of the REST API of a Prefect server.

It does not import Prefect: the import takes seconds, creates a folder, and may be what fails.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx

from relearn.flows.environment import HEARTBEAT_INTERVAL_SECONDS
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.timeouts import iterate_with_timeout
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home

WORK_POOL = "relearn"  # of the workers that run scheduled flows
ZOMBIE_AUTOMATION = "relearn: close runs without heartbeat"
SCHEDULED_FLOWS = ("retrain", "monitor")  # each has one deployment per model, with the model's name
ZOMBIE_GRACE = timedelta(minutes=10)  # without heartbeat; the automation ends our runs long before
# A CRASHED run with no heartbeat for this long is really dead.
HEARTBEAT_GRACE = timedelta(seconds=1.5 * HEARTBEAT_INTERVAL_SECONDS)
PICKUP_GRACE = timedelta(seconds=30)  # for a healthy worker to claim a due run; it polls every 5 seconds
START_GRACE = timedelta(minutes=10)  # for a claimed run to start; later its worker is gone
TERMINAL_STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# PENDING is not active: a claimed run whose machine is gone stays PENDING for `START_GRACE`.
ACTIVE_STATES = ("RUNNING", "CANCELLING", "PAUSED")

JsonObject = Mapping[str, Any]
ServerState = Literal["up", "absent", "silent", "foreign", "unauthorized"]
STATE_PROBLEMS: Mapping[ServerState, str] = {
    "silent": "takes connections, and does not answer",
    "foreign": "is no Prefect server",
    "unauthorized": "asks for a password",
}
PASSWORD_FIX = "set PREFECT_API_AUTH_STRING to its user:password"  # noqa: S105 names the variable


@dataclass(frozen=True)
class PrefectApi:
    """Client of the API at `api_url`; `auth` is user:password, by default from `PREFECT_API_AUTH_STRING`."""

    api_url: str
    auth: str = field(default_factory=lambda: os.environ.get("PREFECT_API_AUTH_STRING", ""), repr=False)
    timeout_seconds: float = 2.0

    @classmethod
    def from_environment(cls, home: Home) -> "PrefectApi":
        """Return a client for `PREFECT_API_URL`, else for `relearn up`, else for Prefect's default port."""
        local_stack = LocalStack.read(home)
        host = os.environ.get("PREFECT_SERVER_API_HOST") or "127.0.0.1"
        port = os.environ.get("PREFECT_SERVER_API_PORT") or "4200"
        local_url = local_stack.service_urls.get("prefect") if local_stack else None
        api_url = os.environ.get("PREFECT_API_URL") or f"{local_url or f'http://{host}:{port}'}/api"
        return cls(api_url.rstrip("/"))

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
            return "up" if isinstance(response.json(), str) else "foreign"
        except httpx.ConnectError:
            return "absent"
        except httpx.TimeoutException:
            return "silent"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return "foreign"

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
        return self._query("automations", automations={"name": {"any_": [ZOMBIE_AUTOMATION]}})

    def list_deployments(self, name: str | None = None) -> list[JsonObject]:
        """Return the deployments of model `name`, by default of all; the key `flow_name` is added to each."""
        flow_rows = self._query("flows", flows={"name": {"any_": list(SCHEDULED_FLOWS)}})
        flow_names = {flow["id"]: flow["name"] for flow in flow_rows}
        deployment_filter = {"name": {"any_": [name]}} if name else {}
        rows = self._query(
            "deployments", deployments=deployment_filter, flows={"name": {"any_": list(SCHEDULED_FLOWS)}}
        )
        return [{**row, "flow_name": flow_names.get(row["flow_id"], "")} for row in rows]

    def find_next_run_time(self, deployment: JsonObject) -> datetime | None:
        """Return the start time of the next scheduled run of `deployment`; None if there is none."""
        run = self._query_first_run(deployment, _state_filter("SCHEDULED"), "EXPECTED_START_TIME_ASC")
        return parse_time(run["expected_start_time"]) if run else None

    def find_last_started(self, deployment: JsonObject) -> JsonObject | None:
        """Return the run of `deployment` that started last, whatever its state.

        Skips runs that were cancelled because another was active: they have a start time, but never ran.
        """
        started = self._query_runs(deployment, {"start_time": {"is_null_": False}}, "START_TIME_DESC", 20)
        return next((run for run in started if run["run_count"] or run["state_type"] != "CANCELLED"), None)

    def find_last_ended(self, deployment: JsonObject, *states: str) -> JsonObject | None:
        """Return the run of `deployment` that ended last in one of these states."""
        return self._query_first_run(deployment, _state_filter(*states), "END_TIME_DESC")

    def is_busy(self, deployment: JsonObject) -> bool:
        """Return whether a run of `deployment` is active."""
        return self._query_first_run(deployment, _state_filter(*ACTIVE_STATES), "START_TIME_DESC") is not None

    def list_overdue_runs(self, deployment: JsonObject) -> list[JsonObject]:
        """Return the due runs of `deployment` that no worker has claimed."""
        cutoff = {"before_": (datetime.now(UTC) - PICKUP_GRACE).isoformat()}
        run_filter = _state_filter("SCHEDULED") | {"next_scheduled_start_time": cutoff}
        return self._query_runs(deployment, run_filter, "NEXT_SCHEDULED_START_TIME_ASC")

    def list_stuck_pending(self, deployment: JsonObject) -> list[JsonObject]:
        """Return the runs of `deployment` that a worker claimed `START_GRACE` ago and never started."""
        pending = self._query_runs(deployment, _state_filter("PENDING"), "EXPECTED_START_TIME_ASC")
        return [
            run for run in pending if datetime.now(UTC) - parse_time(run["state"]["timestamp"]) > START_GRACE
        ]

    def list_stuck_cancelling(self, deployment: JsonObject) -> list[JsonObject]:
        """Return the runs of `deployment` in CANCELLING without heartbeat for `HEARTBEAT_GRACE`."""
        runs = self._query_runs(deployment, _state_filter("CANCELLING"), "EXPECTED_START_TIME_ASC")
        return [run for run in runs if self._lacks_heartbeat(run)]

    def get_flow_run(self, run_id: str) -> JsonObject | None:
        """Return the flow run of this id; None if it does not exist or was deleted."""
        return self._row(f"/flow_runs/{run_id}")

    def is_finished(self, run: JsonObject) -> bool:
        """Return whether `run` has ended.

        A CRASHED run has ended after `HEARTBEAT_GRACE` without heartbeat: until then it may be alive, if
        only the server was unreachable.
        """
        state_type = (run["state"] or {}).get("type")
        return state_type in TERMINAL_STATES and (state_type != "CRASHED" or self._lacks_heartbeat(run))

    def list_states(self, run: JsonObject) -> list[JsonObject]:
        """Return all states of `run`, oldest first."""
        rows: list[JsonObject] = self._parse_response(
            self._request("GET", f"/flow_run_states/?flow_run_id={run['id']}")
        )
        return rows

    def mark_crashed(self, run_id: str, reason: str) -> None:
        """Mark the run as CRASHED if it is active."""
        run = self.get_flow_run(run_id)
        if run and (run["state"] or {}).get("type") in ACTIVE_STATES:
            self._set_state(run, {"type": "CRASHED", "name": "Crashed", "message": reason}, force=True)

    def mark_cancelled(self, run: JsonObject) -> None:
        """Mark a run as CANCELLED, whatever its state."""
        self._set_state(run, {"type": "CANCELLED", "name": "Cancelled"}, force=True)

    def reschedule(self, run: JsonObject, scheduled_at: datetime, reason: str) -> None:
        """Schedule an ended run again, as the retry button of Prefect's UI does."""
        state_details = {"scheduled_time": scheduled_at.isoformat()}
        state = {
            "type": "SCHEDULED",
            "name": "AwaitingRetry",
            "message": reason,
            "state_details": state_details,
        }
        self._set_state(run, state)

    def list_late_runs(self) -> list[JsonObject]:
        """Return runs whose start time has passed and that no worker has claimed."""
        state_filter = {"name": {"any_": ["Late"]}}
        return self._query("flow_runs", flow_runs={"state": state_filter}, sort="EXPECTED_START_TIME_ASC")

    def list_runs_without_heartbeat(self) -> list[JsonObject]:
        """Return RUNNING runs without heartbeat for `ZOMBIE_GRACE`."""
        cutoff = datetime.now(UTC) - ZOMBIE_GRACE
        run_filter = {"state": {"type": {"any_": ["RUNNING"]}}, "start_time": {"before_": cutoff.isoformat()}}
        running = self._query("flow_runs", flow_runs=run_filter, limit=20)
        return [run for run in running if not self._has_heartbeat(run, cutoff)]

    def _query_runs(
        self, deployment: JsonObject, run_filter: JsonObject, sort: str, limit: int = 200
    ) -> list[JsonObject]:
        deployment_filter = {"id": {"any_": [deployment["id"]]}}
        return self._query(
            "flow_runs", deployments=deployment_filter, flow_runs=run_filter, sort=sort, limit=limit
        )

    def _query_first_run(
        self, deployment: JsonObject, run_filter: JsonObject, sort: str
    ) -> JsonObject | None:
        return next(iter(self._query_runs(deployment, run_filter, sort, 1)), None)

    def _set_state(self, run: JsonObject, state: JsonObject, force: bool = False) -> None:
        body = {"state": state, "force": force}
        result = self._parse_response(self._request("POST", f"/flow_runs/{run['id']}/set_state", body))
        if result["status"] != "ACCEPT":
            reason = result["details"].get("reason")
            raise InfrastructureError(
                f"{self.ui_url} rejected the state {state['name']} of {run['name']}: {reason}"
            )

    def _lacks_heartbeat(self, run: JsonObject) -> bool:
        """Return whether neither a heartbeat nor a state change came within `HEARTBEAT_GRACE`."""
        cutoff = datetime.now(UTC) - HEARTBEAT_GRACE
        return parse_time(run["state"]["timestamp"]) < cutoff and not self._has_heartbeat(run, cutoff)

    def _has_heartbeat(self, run: JsonObject, since: datetime) -> bool:
        event_filter = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            "occurred": {"since": since.isoformat()},
        }
        result = self._parse_response(
            self._request("POST", "/events/filter", {"filter": event_filter, "limit": 1})
        )
        return bool(result["events"])

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
        auth = httpx.BasicAuth(*self.auth.split(":", 1)) if ":" in self.auth else None
        return httpx.request(
            method, self.api_url + path, json=body, auth=auth, timeout=self.timeout_seconds, trust_env=False
        )

    def _parse_response(self, response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        raise InfrastructureError(f"{self.ui_url} answers {response.status_code} {response.reason_phrase}")


def _state_filter(*states: str) -> dict[str, Any]:
    return {"state": {"type": {"any_": list(states)}}}


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
