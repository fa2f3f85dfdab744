"""What a running Prefect server tells, asked over HTTP.

Prefect itself is left out: to import it takes seconds, makes its folder, and may be what does not work.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from relearn.flows.environment import HEARTBEAT
from relearn.flows.standing import Standing
from relearn.model.errors import MachineError
from relearn.model.home import Home

POOL = "relearn"  # the work pool whose worker runs what is scheduled
RULE = "relearn: close runs without heartbeat"
FLOWS = ("retrain", "monitor")  # that are scheduled, each as a deployment called after a name
SILENT = timedelta(minutes=10)  # without heartbeat; the rule ends ours long before
CERTAIN = timedelta(seconds=1.5 * HEARTBEAT)  # without one, after which a run that is called crashed is
DUE = timedelta(seconds=30)  # in which a runner that is well has taken a run; it asks every 5 seconds
BEGUN = timedelta(minutes=10)  # in which a run that was taken has begun, unless who took it is gone
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Not one that was taken and has not begun: where its machine is gone, it is so for `BEGUN`.
BUSY = ("RUNNING", "CANCELLING", "PAUSED")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PrefectServer:
    """Where its API is, user:password where it asks for them, and how many seconds an answer may take."""

    api: str
    auth: str = ""
    patience: float = 2.0

    @classmethod
    def of(cls, home: Home) -> "PrefectServer":
        """The one that `PREFECT_API_URL` names, else that of `relearn up`, else that of this machine."""
        standing = Standing.read(home)
        host = os.environ.get("PREFECT_SERVER_API_HOST") or "127.0.0.1"
        port = os.environ.get("PREFECT_SERVER_API_PORT") or "4200"
        here = standing.parts.get("flows") if standing else None
        named = os.environ.get("PREFECT_API_URL") or f"{here or f'http://{host}:{port}'}/api"
        return cls(named.rstrip("/"), os.environ.get("PREFECT_API_AUTH_STRING", ""))

    @property
    def page(self) -> str:
        return self.api.removesuffix("/api")

    def answers(self) -> bool:
        """Whether a Prefect server is there; raises `MachineError` where something else is, or it hangs."""
        try:
            return bool(self._ask("GET", "/health").json() is True)
        except httpx.ConnectError:
            return False
        except httpx.TimeoutException:
            raise MachineError(f"{self.page} takes connections, and does not answer") from None
        except (httpx.HTTPError, ValueError):
            raise MachineError(f"{self.page} is no Prefect server") from None

    def version(self) -> str:
        return str(self._ask("GET", "/admin/version").json())

    def pool(self) -> Row | None:
        """The work pool of ours; None where nothing was ever scheduled."""
        return self._row(f"/work_pools/{POOL}")

    def workers(self) -> list[Row]:
        return self._filter(f"work_pools/{POOL}/workers")

    def rules(self) -> list[Row]:
        """The automations that end runs whose process was killed; one is enough."""
        return self._filter("automations", automations={"name": {"any_": [RULE]}})

    def deployments(self, name: str | None = None) -> list[Row]:
        """What is scheduled, under `name` where it is given; each with its flow as `flow_name`."""
        found = self._filter("flows", flows={"name": {"any_": list(FLOWS)}})
        flows = {one["id"]: one["name"] for one in found}
        asked = {"name": {"any_": [name]}} if name else {}
        rows = self._filter("deployments", deployments=asked, flows={"name": {"any_": list(FLOWS)}})
        return [{**row, "flow_name": flows.get(row["flow_id"], "")} for row in rows]

    def next_run(self, deployment: Row) -> datetime | None:
        """When the next run of `deployment` is due; None where none is planned."""
        run = self._first(deployment, _in("SCHEDULED"), "EXPECTED_START_TIME_ASC")
        return moment(run["expected_start_time"]) if run else None

    def last_begun(self, deployment: Row) -> Row | None:
        """The run of `deployment` that began last, whatever became of it.

        Not one that was cancelled because another was under way: Prefect gives it a start, and it never ran.
        """
        begun = self._runs(deployment, {"start_time": {"is_null_": False}}, "START_TIME_DESC", 20)
        return next((run for run in begun if run["run_count"] or run["state_type"] != "CANCELLED"), None)

    def last_ended(self, deployment: Row, *states: str) -> Row | None:
        """The run of `deployment` that ended last in one of these states."""
        return self._first(deployment, _in(*states), "END_TIME_DESC")

    def is_busy(self, deployment: Row) -> bool:
        """Whether a run of `deployment` is under way."""
        return self._first(deployment, _in(*BUSY), "START_TIME_DESC") is not None

    def untaken(self, deployment: Row) -> list[Row]:
        """Runs of `deployment` that are due, and that nobody has taken."""
        before = {"before_": (datetime.now(UTC) - DUE).isoformat()}
        asked = _in("SCHEDULED") | {"next_scheduled_start_time": before}
        return self._runs(deployment, asked, "NEXT_SCHEDULED_START_TIME_ASC")

    def never_begun(self, deployment: Row) -> list[Row]:
        """Runs of `deployment` that were taken, by a runner that is gone."""
        taken = self._runs(deployment, _in("PENDING"), "EXPECTED_START_TIME_ASC")
        return [run for run in taken if datetime.now(UTC) - moment(run["state"]["timestamp"]) > BEGUN]

    def cancelling(self, deployment: Row) -> list[Row]:
        """Runs of `deployment` that somebody cancels, and that have not been heard of since."""
        asked = self._runs(deployment, _in("CANCELLING"), "EXPECTED_START_TIME_ASC")
        return [run for run in asked if self._is_silent(run)]

    def run(self, run_id: str) -> Row | None:
        """The flow run of this id; None where it was never there, or was deleted."""
        return self._row(f"/flow_runs/{run_id}")

    def is_over(self, run: Row) -> bool:
        """Whether `run` has ended.

        One that is called crashed may live, after this server was away, until it asks to keep its place.
        """
        kind = (run["state"] or {}).get("type")
        return kind in FINAL and (kind != "CRASHED" or self._is_silent(run))

    def states(self, run: Row) -> list[Row]:
        """All that `run` has been, one after the other."""
        rows: list[Row] = self._checked(self._ask("GET", f"/flow_run_states/?flow_run_id={run['id']}"))
        return rows

    def crash(self, run_id: str, why: str) -> None:
        """Let the run be over, where it is said to be under way."""
        run = self.run(run_id)
        if run and (run["state"] or {}).get("type") in BUSY:
            self._set(run, {"type": "CRASHED", "name": "Crashed", "message": why}, force=True)

    def cancel(self, run: Row) -> None:
        """Let a run be cancelled, whatever it is."""
        self._set(run, {"type": "CANCELLED", "name": "Cancelled"}, force=True)

    def put_back(self, run: Row, at: datetime, why: str) -> None:
        """Let a run that is over be due once more, as the retry in Prefect's page does."""
        due = {"scheduled_time": at.isoformat()}
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": why, "state_details": due}
        self._set(run, state)

    def late(self) -> list[Row]:
        """Runs that should have begun, and that nobody has taken."""
        state = {"name": {"any_": ["Late"]}}
        return self._filter("flow_runs", flow_runs={"state": state}, sort="EXPECTED_START_TIME_ASC")

    def silent(self) -> list[Row]:
        """Runs that are said to be running, and have not been heard of for `SILENT`."""
        before = datetime.now(UTC) - SILENT
        begun = {"state": {"type": {"any_": ["RUNNING"]}}, "start_time": {"before_": before.isoformat()}}
        running = self._filter("flow_runs", flow_runs=begun, limit=20)
        return [run for run in running if not self._heard_of(run, before)]

    def _runs(self, deployment: Row, asked: Row, sort: str, limit: int = 200) -> list[Row]:
        which = {"id": {"any_": [deployment["id"]]}}
        return self._filter("flow_runs", deployments=which, flow_runs=asked, sort=sort, limit=limit)

    def _first(self, deployment: Row, asked: Row, sort: str) -> Row | None:
        return next(iter(self._runs(deployment, asked, sort, 1)), None)

    def _set(self, run: Row, state: Row, force: bool = False) -> None:
        body = {"state": state, "force": force}
        answer = self._checked(self._ask("POST", f"/flow_runs/{run['id']}/set_state", body))
        if answer["status"] != "ACCEPT":
            why = answer["details"].get("reason")
            raise MachineError(f"{self.page} does not let {run['name']} be {state['name']}: {why}")

    def _is_silent(self, run: Row) -> bool:
        """Whether nothing was heard of it for so long that its process is gone, nor did its state change."""
        since = datetime.now(UTC) - CERTAIN
        return moment(run["state"]["timestamp"]) < since and not self._heard_of(run, since)

    def _heard_of(self, run: Row, since: datetime) -> bool:
        asked = {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            "occurred": {"since": since.isoformat()},
        }
        answer = self._checked(self._ask("POST", "/events/filter", {"filter": asked, "limit": 1}))
        return bool(answer["events"])

    def _row(self, path: str) -> Row | None:
        answer = self._ask("GET", path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        row: Row = self._checked(answer)
        return row

    def _filter(self, what: str, **body: Any) -> list[Row]:
        rows: list[Row] = self._checked(self._ask("POST", f"/{what}/filter", body))
        return rows

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        auth = httpx.BasicAuth(*self.auth.split(":", 1)) if ":" in self.auth else None
        return httpx.request(
            method, self.api + path, json=body, auth=auth, timeout=self.patience, trust_env=False
        )

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json()
        raise MachineError(f"{self.page} answers {answer.status_code} {answer.reason_phrase}")


def _in(*states: str) -> dict[str, Any]:
    return {"state": {"type": {"any_": list(states)}}}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
