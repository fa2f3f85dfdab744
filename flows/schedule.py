"""When a name is trained again: deployments of our flows, which Prefect's page shows and changes.

Each has one run at a time: what comes while one runs is cancelled, and says so. The runner takes what is due;
a rule closes runs whose process has not been heard of.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

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
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from relearn.flows.alarm import ACCURACY, DRIFT, resource
from relearn.flows.environment import HEARTBEAT
from relearn.flows.monitor import monitor
from relearn.flows.prefect_server import FLOWS, POOL, RULE
from relearn.flows.retrain import retrain
from relearn.flows.settings import ReleaseConfig
from relearn.model.config import TrainConfig
from relearn.model.datasets import DATASETS, source
from relearn.model.errors import InputError
from relearn.model.home import Home

# After which a run's process is taken for dead: a server that is away for two minutes hears of none.
SILENCE = 6 * HEARTBEAT  # seconds
ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
HOURLY = Cron("7 * * * *", timezone="UTC")  # for the watch; at the full hour others are busy


def ready(name: str) -> bool:
    """See that Prefect's server has what the runner needs; what people have changed there stays as it is.

    Returns whether `name` can be retrained; what data one of your own is trained on, only a plan tells.
    """
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        _keep_rule(client)
        there = {flow: deployment(client, flow, name) for flow in (retrain, monitor)}
        for flow, found in there.items():
            if found:  # from an earlier version of ours, perhaps: the form of its page follows the settings
                form = parameter_schema(flow).model_dump(exclude_unset=True)
                client.update_deployment(found.id, DeploymentUpdate(parameter_openapi_schema=form))
    if not there[retrain] and name in DATASETS:
        _deploy_retraining(name, {"config": {"dataset": name}})
    if not there[monitor]:
        _deploy(monitor, name, {"name": name}, HOURLY)
    return bool(there[retrain]) or name in DATASETS


def plan(
    name: str,
    cron: str,
    timezone: str,
    config: TrainConfig,
    networks: tuple[str, ...],
    gate: ReleaseConfig,
    insist: bool,
) -> None:
    """Train `name` again whenever `cron` says, with these settings; replaces what was planned before."""
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        where = error.errors()[0]
        flag, accepted = "--cron", 'five fields, such as "0 3 * * *" for three in the morning'
        if where["loc"][0] == "timezone":
            flag, accepted = "--timezone", "a name such as Europe/Berlin"
        raise InputError(f"{flag}: got {where['input']!r}, accepted: {accepted}") from None
    parameters = {
        "config": config.model_dump(mode="json") | {"dataset": source(config, Home.from_environment())},
        "networks": networks,
        "gate": gate.model_dump(mode="json"),
        "insist": insist,
    }
    ready(name)
    _deploy_retraining(name, parameters, Cron(cron, timezone=timezone))


def unplan(name: str) -> None:
    """No more runs of `name` by the clock; it can still be started in the page, and by an event."""
    with get_client(sync_client=True) as client:
        if found := deployment(client, retrain, name):
            client.update_deployment(found.id, DeploymentUpdate(schedules=[]))


def deployment(client: SyncPrefectClient, flow: Flow[..., Any], name: str) -> DeploymentResponse | None:
    """That of `flow` for `name`, None where there is none."""
    try:
        return client.read_deployment_by_name(f"{flow.name}/{name}")
    except ObjectNotFound:
        return None


def _deploy_retraining(name: str, parameters: Mapping[str, Any], cron: Schedule | None = None) -> None:
    alarm = DeploymentEventTrigger(
        name=f"relearn: retrain {name} when the watch asks for it",
        expect={DRIFT, ACCURACY},
        match={"prefect.resource.id": resource(name)},
        parameters={},
    )
    _deploy(retrain, name, parameters, cron, alarm)


def _deploy(
    flow: Flow[..., Any],
    name: str,
    parameters: Mapping[str, Any],
    cron: Schedule | None,
    *triggers: DeploymentEventTrigger,
) -> None:
    RunnerDeployment.from_flow(
        flow,
        name,
        schedule=cron,
        parameters=dict(parameters),
        concurrency_limit=ONE,
        triggers=list(triggers),
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        paused=False,
    ).apply()


def _keep_rule(client: SyncPrefectClient) -> None:
    """The one rule that closes runs without heartbeat: made where it is missing, no second one kept."""
    there = client.read_automations_by_name(RULE)
    for surplus in there[1:]:
        client.delete_automation(surplus.id)
    if there:
        return
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    beat = "prefect.flow-run.heartbeat"
    Automation(
        name=RULE,
        description="A run whose process was killed would be Running for ever, and no other could start.",
        trigger=EventTrigger(
            after={beat},
            expect={beat, *ends},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={
                "prefect.resource.role": "flow",
                "prefect.resource.name": list(FLOWS),
            },  # not others'
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"its process was not heard of for {SILENCE} seconds"
            )
        ],
    ).create()
