"""Prefect deployments of the flows `retrain` and `monitor`, one each per model, and of `prune`.

A deployment has one run at a time: Prefect cancels a run that is requested meanwhile, with a message. The
worker takes scheduled runs. An automation marks runs without heartbeat as crashed. All can be viewed and
edited in Prefect's UI.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect import Flow, get_client
from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    StateType,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema

from relearn.flows.config import PromotionConfig
from relearn.flows.monitor import monitor
from relearn.flows.orchestration.events import ACCURACY_EVENT, DRIFT_EVENT, resource_id
from relearn.flows.orchestration.prefect_api import FLOWS, WORK_POOL, ZOMBIE_AUTOMATION
from relearn.flows.prune import prune
from relearn.flows.retrain import retrain
from relearn.flows.scheduling.cron import check_cron
from relearn.flows.scheduling.recovery_policy import HEARTBEAT_TIMEOUT
from relearn.model.config import TrainConfig
from relearn.model.data.builtin import DATASETS
from relearn.model.data.load import resolve_source
from relearn.model.home import Home

ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
PRUNE_DEPLOYMENT = "home"  # it is of no model
PRUNE_SCHEDULE = Cron("37 4 * * *", timezone="UTC")
MONITOR_SCHEDULE = Cron("7 * * * *", timezone="UTC")  # the full hour is when other programs are busy


def ensure_deployments(name: str) -> bool:
    """Create the work pool, automation and deployments of model `name` that are missing.

    Changes made in Prefect's UI are kept. Returns whether the model has a retraining. A model that is not a
    built-in dataset gets one by `schedule_retraining`, which names its data.
    """
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        _ensure_zombie_automation(client)
        names: Mapping[Flow[..., Any], str] = {retrain: name, monitor: name, prune: PRUNE_DEPLOYMENT}
        deployments = {flow: find_deployment(client, flow, names[flow]) for flow in names}
        for flow, existing in deployments.items():
            if existing:  # perhaps by an earlier version of Relearn: the form in the UI follows the settings
                _update_form(client, existing.id, flow)
    if not deployments[retrain] and name in DATASETS:
        _deploy_retraining(name, {"config": {"dataset": name}})
    if not deployments[prune]:
        _deploy(prune, PRUNE_DEPLOYMENT, {}, PRUNE_SCHEDULE)
    if not deployments[monitor]:
        _deploy(monitor, name, {"name": name}, MONITOR_SCHEDULE)
    return bool(deployments[retrain]) or name in DATASETS


def schedule_retraining(
    name: str,
    cron: str,
    timezone: str,
    config: TrainConfig,
    networks: tuple[str, ...],
    gate: PromotionConfig,
    force: bool,
) -> None:
    """Schedule the retraining of model `name` with these settings; replaces its previous schedule.

    Raises `UserInputError` for an invalid `cron` or `timezone`.
    """
    check_cron(cron, timezone)
    parameters = {
        "config": config.model_dump(mode="json")
        | {"dataset": resolve_source(config, Home.from_environment())},
        "networks": networks,
        "promotion": gate.model_dump(mode="json"),
        "force": force,
    }
    ensure_deployments(name)
    _deploy_retraining(name, parameters, Cron(cron, timezone=timezone))


def unschedule_retraining(name: str) -> None:
    """Remove the schedule of model `name`; Prefect's UI and events still start retrainings."""
    with get_client(sync_client=True) as client:
        if existing := find_deployment(client, retrain, name):
            client.update_deployment(existing.id, DeploymentUpdate(schedules=[]))


def find_deployment(client: SyncPrefectClient, flow: Flow[..., Any], name: str) -> DeploymentResponse | None:
    """Return the deployment of `flow` for model `name`, None if there is none."""
    try:
        return client.read_deployment_by_name(f"{flow.name}/{name}")
    except ObjectNotFound:
        return None


def _deploy_retraining(name: str, parameters: Mapping[str, Any], schedule: Schedule | None = None) -> None:
    trigger = DeploymentEventTrigger(
        name=f"relearn: retrain {name} when the monitor requests it",
        expect={DRIFT_EVENT, ACCURACY_EVENT},
        match={"prefect.resource.id": resource_id(name)},
        parameters={},
    )
    _deploy(retrain, name, parameters, schedule, trigger)


def _deploy(
    flow: Flow[..., Any],
    name: str,
    parameters: Mapping[str, Any],
    schedule: Schedule | None,
    *triggers: DeploymentEventTrigger,
) -> None:
    RunnerDeployment.from_flow(
        flow,
        name,
        schedule=schedule,
        parameters=dict(parameters),
        concurrency_limit=ONE_AT_A_TIME,
        triggers=list(triggers),
        work_pool_name=WORK_POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        paused=False,
    ).apply()
    with get_client(sync_client=True) as client:
        if deployment := find_deployment(client, flow, name):
            _update_form(client, deployment.id, flow)


def _update_form(client: SyncPrefectClient, deployment_id: UUID, flow: Flow[..., Any]) -> None:
    """Make the form in Prefect's UI from the parameters of `flow`; Prefect refuses a run with any other."""
    form = parameter_schema(flow).model_dump(exclude_unset=True) | {"additionalProperties": False}
    client.update_deployment(deployment_id, DeploymentUpdate(parameter_openapi_schema=form))


def _ensure_zombie_automation(client: SyncPrefectClient) -> None:
    """Create the automation that marks runs without heartbeat as crashed; delete duplicates.

    It is for runs of machines that no longer run a worker; the worker closes all others sooner.
    """
    end_events = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    heartbeat_event = "prefect.flow-run.heartbeat"
    automation = Automation(
        name=ZOMBIE_AUTOMATION,
        description="A run whose process was killed would stay Running forever, and block the next run.",
        trigger=EventTrigger(
            after={heartbeat_event},
            expect={heartbeat_event, *end_events},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={  # only the flows of Relearn
                "prefect.resource.role": "flow",
                "prefect.resource.name": list(FLOWS),
            },
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=HEARTBEAT_TIMEOUT,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {HEARTBEAT_TIMEOUT.total_seconds():g} seconds",
            )
        ],
    )
    existing = client.read_automations_by_name(ZOMBIE_AUTOMATION)
    for duplicate in existing[1:]:
        client.delete_automation(duplicate.id)
    if not existing:
        automation.create()
    elif existing[0].trigger != automation.trigger:  # of an earlier version of Relearn
        automation.enabled = existing[0].enabled
        client.update_automation(existing[0].id, automation)
