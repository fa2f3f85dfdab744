"""Whether a retraining that is due is worth it: not after a later one, nor of what was trained on before."""

import hashlib
import json
from collections.abc import Sequence
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run

from relearn.flows.settings import ReleaseConfig
from relearn.flows.tracking import Experiment
from relearn.model.classifier import source_of
from relearn.model.config import TrainConfig
from relearn.model.networks import network_class

INPUTS = "relearn.inputs"  # tag of a retraining: all that its outcome depends on
# What has not begun, was refused, or came to nothing.
VAIN = (
    *(StateType.SCHEDULED, StateType.PENDING, StateType.CANCELLED),
    *(StateType.FAILED, StateType.CRASHED),
)


def overtaken() -> str | None:
    """Why the run that has begun comes too late: another one of its deployment did, after its time.

    After hours without a runner many are due; the first of them learns from all there is by then. A run
    that is tried again was asked for, and is never too late.
    """
    if not deployment.id or flow_run.run_count > 1:
        return None
    meant = flow_run.scheduled_start_time
    began = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[UUID(deployment.id)]),
        id=FlowRunFilterId(not_any_=[UUID(flow_run.id)]),
        start_time=FlowRunFilterStartTime(after_=meant),
        # Of what has not begun, Prefect takes the time for which it is meant.
        state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(VAIN))),
    )
    with get_client(sync_client=True) as prefect:
        later = prefect.read_flow_runs(flow_run_filter=began, limit=1)
    return f"{later[0].name} began after {meant:%H:%M:%S}, when this one was due" if later else None


def inputs(
    config: TrainConfig, networks: Sequence[str], gate: ReleaseConfig, fingerprint: str
) -> dict[str, str]:
    """What a retraining is recognised by, as a tag: settings, own networks' code, data."""
    code = [source_of(network_class(network)) for network in networks if ":" in network]
    settings = [config.model_dump(mode="json"), gate.model_dump(mode="json")]
    said = [*settings, list(networks), code, fingerprint]
    return {INPUTS: hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def unchanged(experiment: Experiment, inputs: dict[str, str]) -> str | None:
    """Why nothing would come of it: the retraining that ended last had the same data and settings."""
    same = experiment.latest("retrain", inputs)
    if same is None:
        return None
    return f"data and settings are those of run {same.info.run_id[:8]}; insist trains all the same"
