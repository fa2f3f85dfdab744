"""Reasons to skip a scheduled retraining: superseded by a later one, or same data and settings."""

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
    FlowRunFilterStateName,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runtime import deployment, flow_run

from relearn.flows.config import PromotionConfig
from relearn.flows.tracking.runs import Experiment
from relearn.model.config import TrainConfig
from relearn.model.inference.classifier import read_class_source
from relearn.model.networks.registry import get_network_class

INPUT_HASH_TAG = "relearn.input_hash"  # tag of a retraining: hash of settings, code and data
# States of runs that have not started, or did not succeed.
UNSTARTED_OR_FAILED_STATES = (
    *(StateType.SCHEDULED, StateType.PENDING, StateType.CANCELLED),
    *(StateType.FAILED, StateType.CRASHED),
)
SKIPPED = "Skipped"  # name of the final state of a run that had nothing to do


def is_requested_by_person() -> bool:
    """Return whether a person asked for the current run, rather than a schedule or the monitor."""
    if not deployment.id:
        return True
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(flow_run.id))
    return not run.auto_scheduled and (run.created_by is None or run.created_by.type != "AUTOMATION")


def describe_superseding_run() -> str | None:
    """Return why the current run is superseded: its deployment started another run after it was due.

    After hours without a worker many runs are due at once; the first trains on all data, the others are
    superseded. A retry is never superseded, nor is a run by one that was skipped or had other parameters.
    """
    if not deployment.id or flow_run.run_count > 1:
        return None
    scheduled_at = flow_run.scheduled_start_time
    run_filter = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[UUID(deployment.id)]),
        id=FlowRunFilterId(not_any_=[UUID(flow_run.id)]),
        start_time=FlowRunFilterStartTime(after_=scheduled_at),
        # For runs that have not started Prefect compares the scheduled time instead.
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(not_any_=list(UNSTARTED_OR_FAILED_STATES)),
            name=FlowRunFilterStateName(not_any_=[SKIPPED]),
        ),
    )
    with get_client(sync_client=True) as client:
        parameters = client.read_flow_run(UUID(flow_run.id)).parameters
        later_runs = client.read_flow_runs(flow_run_filter=run_filter)
    names = (run.name for run in later_runs if run.parameters == parameters)
    reasons = (f"{name} started after {scheduled_at:%H:%M:%S}, when this one was due" for name in names)
    return next(reasons, None)


def build_input_tag(
    config: TrainConfig, networks: Sequence[str], gate: PromotionConfig, fingerprint: str
) -> dict[str, str]:
    """Return the hash of settings, data and custom networks' code, as a tag by which a run is found."""
    class_sources = [read_class_source(get_network_class(network)) for network in networks if ":" in network]
    settings = [config.model_dump(mode="json"), gate.model_dump(mode="json")]
    payload = [*settings, list(networks), class_sources, fingerprint]
    return {INPUT_HASH_TAG: hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()}


def describe_identical_retraining(experiment: Experiment, input_tag: dict[str, str]) -> str | None:
    """Return why a retraining would change nothing: the last one had the same data and settings."""
    previous_run = experiment.find_latest("retrain", input_tag)
    if previous_run is None:
        return None
    return f"data and settings are those of run {previous_run.info.run_id[:8]}; force trains again"
