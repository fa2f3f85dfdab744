"""Release flow: evaluate the gate → register → package → smoke test → promote, or hold or reject."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect import flow, get_client, get_run_logger, task
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Running

from relearn.flows.config import PromotionConfig
from relearn.flows.orchestration.events import RELEASE_EVENT, emit
from relearn.flows.orchestration.flow_process import record_process
from relearn.flows.promotion.candidate_scores import score_all
from relearn.flows.promotion.class_change import ClassChange, measure_new_classes
from relearn.flows.promotion.gate import Baseline, evaluate_gate
from relearn.flows.promotion.gate_report import publish_gate_report
from relearn.flows.promotion.reference_images import load_default_reference
from relearn.flows.promotion.smoke import run_smoke_test
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import (
    ReleaseState,
    count_candidates,
    map_versions,
    record_decision,
    sync_with_ledger,
    try_sync_with_ledger,
)
from relearn.flows.results import EXAMPLE_IMAGE_FILENAME, GateDecision, ReleaseResult, SmokeTestResult
from relearn.flows.terminal.console import Stopwatch, print_warning, spinner
from relearn.flows.tracking import registry
from relearn.flows.tracking.run_names import add_to_flow_run_name, build_release_flow_run_name
from relearn.flows.tracking.runs import attach_run
from relearn.flows.tracking.store import connect, mlflow_errors
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.images.allocate import allocate_in
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import read_card, read_training_hashes
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import GateOutcome, Release
from relearn.serving.releases.store import ReleaseStore

DEFAULT_CONFIG = PromotionConfig()


@dataclass(frozen=True)
class Candidate:
    """Candidate for a release: run, folder of the downloaded classifier, progress.

    `data_fingerprint` identifies its training data, `reference_fingerprint` its reference set.
    `expected_label` is the label of its first golden image.
    """

    run_id: str
    folder: Path
    name: str
    data_fingerprint: str
    reference_fingerprint: str
    expected_label: str
    gate_decision: GateDecision
    version: str = ""
    bento: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    smoke_test_result: SmokeTestResult | None = None

    @property
    def action(self) -> GateOutcome:
        return self.gate_decision.action

    def with_action(self, action: GateOutcome, reason: str) -> "Candidate":
        """Return a copy whose gate decision is `action`, with `reason` before the other reasons."""
        reasons = (reason, *self.gate_decision.reasons)
        gate_decision = self.gate_decision.model_copy(update={"action": action, "reasons": reasons})
        return replace(self, gate_decision=gate_decision)


class Approval(RunInput):
    """Approval form in the Prefect UI."""

    promote: bool = True


@flow(name="release", flow_run_name=build_release_flow_run_name, on_running=[record_process])
def release(run_id: str, config: PromotionConfig = DEFAULT_CONFIG) -> ReleaseResult:
    """Evaluate the classifier of a run against the champion, smoke-test it, promote it.

    If the champion changes in the meantime, the candidate is evaluated again, against the new champion. The
    release of a run that is live already only builds its Bento again if that is damaged.
    """
    home, stopwatch = Home.from_environment(), Stopwatch()
    with mlflow_errors(home.tracking_uri), tempfile.TemporaryDirectory() as temp_dir:
        folder = registry.download_classifier(connect(home), run_id, Path(temp_dir))
        name = read_card(folder).name
        log_warnings(sync_with_ledger(home, name))
        while True:
            state_before = ReleaseState.from_store(ReleaseStore(home.releases_dir(name)))
            if state_before.live and state_before.live.run_id == run_id:
                return restore_live(name, state_before.live, home)
            with stopwatch.stage("gate"), spinner("Deciding on the release"):
                candidate = evaluate_candidate(run_id, folder, config, state_before)
            if candidate.action == "promote":
                with stopwatch.stage("registering"), spinner("Registering"):
                    candidate = register(candidate)
                with stopwatch.stage("packaging"), spinner("Packaging with BentoML"):
                    candidate = package_candidate(candidate)
                with stopwatch.stage("smoke test"), spinner("Starting its server for a smoke test"):
                    candidate = smoke_test(candidate)
            if candidate.action == "promote" and config.manual_approval:  # for each gate decision
                with stopwatch.stage("waiting for approval"):
                    candidate = wait_for_approval(candidate, config)
            with stopwatch.stage("decision"):
                is_recorded = apply_decision(candidate, state_before)
            if is_recorded:
                result = build_result(candidate, stopwatch.seconds)
                add_to_flow_run_name(result.verdict)
                emit(RELEASE_EVENT, name, result.summary, verdict=result.verdict, version=result.live_version)
                return result


@task(task_run_name="evaluate-gate")
def evaluate_candidate(
    run_id: str, folder: Path, config: PromotionConfig, state_before: ReleaseState
) -> Candidate:
    """Score candidate and champion on the same images; publish the gate decision in MLflow and Prefect.

    With other classes than the champion's the candidate's own test images become the reference set: the two
    are compared on those of the classes that both know. Images that any of them, or the baseline, has learned
    from are left out; each sees the others through its own preprocessing. A promoted candidate gets golden
    requests in its folder, which its server has to answer.
    """
    home, classifier = Home.from_environment(), Classifier.load(folder)
    card, releases = classifier.card, ReleaseStore(home.releases_dir(classifier.card.name))
    learned = {classifier: read_training_hashes(folder)}
    champion, baseline, has_more_data = None, None, False
    if live := state_before.live:
        champion = releases.load(live.version)
        learned[champion] = read_training_hashes(releases.version_folder(live.version), champion.card)
        has_more_data = set(learned[champion][:, 0].tolist()) < set(learned[classifier][:, 0].tolist())
        if live.baseline in releases.list_versions():  # else it was pruned, or is the champion
            baseline = releases.load(live.baseline)
            learned[baseline] = read_training_hashes(releases.version_folder(live.baseline), baseline.card)
    change = ClassChange.between(card.classes, (champion or classifier).card.classes, config)
    reference = (
        ReferenceSet.load(releases, state_before.reference_fingerprint)
        if state_before.reference_fingerprint and not change.needs_reference
        else load_default_reference(card, home)
    )
    home.dataset_cache.mkdir(parents=True, exist_ok=True)
    learners = [(scored.card, hashes) for scored, hashes in learned.items()]
    images = reference.fit_unseen(learners, allocate_in(home.dataset_cache))
    scores = score_all(dict(zip(learned, images, strict=True)), classifier, change, reference.classes, config)
    baseline_scores, margin = scores[baseline].reference if baseline else None, live.margin if live else 0.0
    gate_decision = evaluate_gate(
        scores[classifier],
        scores[champion] if champion else None,
        config,
        Baseline(baseline_scores, margin, *count_candidates(releases, run_id)),
        has_more_data,
        measure_new_classes(change, classifier, images[0]),
    )
    publish_gate_report(
        attach_run(home, run_id),
        gate_decision,
        scores[classifier],
        scores[champion] if champion else None,
        excluded=len(reference) - len(images[0]),
    )
    if gate_decision.action == "promote":
        Golden.from_classifier(classifier, images[0].images).save(folder)
    return Candidate(
        run_id=run_id,
        folder=folder,
        name=card.name,
        data_fingerprint=card.fingerprint,
        reference_fingerprint=reference.save(releases),
        expected_label=reference.classes[images[0].labels[0]],
        gate_decision=gate_decision,
    )


@task(task_run_name="register")
def register(candidate: Candidate) -> Candidate:
    """Register the run as a version; a repeated call returns the same version."""
    home = Home.from_environment()
    client, releases = connect(home), ReleaseStore(home.releases_dir(candidate.name))
    with releases.locked():  # or one run might get two versions
        released = map_versions(releases)
        version = registry.register(client, candidate.run_id, candidate.name, released)
    return replace(candidate, version=version)


@task(task_run_name="package")
def package_candidate(candidate: Candidate) -> Candidate:
    """Add the classifier to the release store, from which running servers load it, and build its Bento."""
    home = Home.from_environment()
    digests = ReleaseStore(home.releases_dir(candidate.name)).add_version(candidate.version, candidate.folder)
    bento = build_bento(candidate.folder, candidate.name, candidate.version, home)
    return replace(candidate, digests=digests, bento=bento)


@task(task_run_name="smoke-test")
def smoke_test(candidate: Candidate) -> Candidate:
    """Start the Bento's server and send it the golden requests; a wrong prediction is a rejection."""
    golden, scale = Golden.load(candidate.folder), read_card(candidate.folder).scale
    result = run_smoke_test(candidate.bento, golden, scale, Home.from_environment())
    tested_candidate = replace(candidate, smoke_test_result=result)
    return tested_candidate.with_action("reject", result.error) if result.error else tested_candidate


def wait_for_approval(candidate: Candidate, config: PromotionConfig) -> Candidate:
    """Wait for approval in the Prefect UI; without it the candidate is held."""
    reasons = "\n\n".join(candidate.gate_decision.reasons)
    form = Approval.with_initial_data(
        description=f"Shall {candidate.name} {candidate.version} be served?\n\n{reasons}"
    )
    try:
        approval = pause_flow_run(
            wait_for_input=form, timeout=int(60 * config.approval_timeout_minutes), poll_interval=2
        )
    except FlowPauseTimeout:
        with get_client(sync_client=True) as client:  # else Prefect would mark the flow run as failed
            client.set_flow_run_state(UUID(flow_run.id), Running(), force=True)
        return candidate.with_action(
            "hold", f"nobody approved it within {config.approval_timeout_minutes:g} minutes"
        )
    return candidate if approval.promote else candidate.with_action("hold", "it was not approved by hand")


@task(task_run_name="apply-decision")
def apply_decision(candidate: Candidate, state_before: ReleaseState) -> bool:
    """Write the decision to the ledger; return False if the state is no longer `state_before`.

    A promoted candidate is live as soon as the entry is in the ledger, whatever happens afterwards.
    """
    home, action = Home.from_environment(), candidate.action
    live_release, previous_version = state_before.live, state_before.previous_version
    reference_fingerprint = state_before.reference_fingerprint
    if action == "promote":
        live_release = Release(
            version=candidate.version,
            bento=candidate.bento,
            run_id=candidate.run_id,
            published_at=datetime.now(UTC),
            sha256=dict(candidate.digests),
            baseline=(live_release.baseline or live_release.version)
            if live_release and candidate.gate_decision.margin
            else "",
            margin=candidate.gate_decision.margin,
        )
        previous_version = state_before.live.version if state_before.live else None
        reference_fingerprint = candidate.reference_fingerprint
    fingerprints = {"data": candidate.data_fingerprint} | (
        {"reference": reference_fingerprint} if reference_fingerprint else {}
    )
    entry = record_decision(
        home,
        candidate.name,
        state_before,
        action=action,
        subject=candidate.version or f"run {candidate.run_id[:8]}",
        run_id=candidate.run_id,
        reasons=candidate.gate_decision.reasons,
        fingerprints=fingerprints,
        live=live_release,
        rollback_target=previous_version,
    )
    if entry is None:
        return False
    log_warnings(try_sync_with_ledger(home, candidate.name))
    return True


def build_result(candidate: Candidate, seconds: dict[str, float]) -> ReleaseResult:
    """Build the result of the release; write an example image for requests to the server."""
    home = Home.from_environment()
    releases = ReleaseStore(home.releases_dir(candidate.name))
    live_release = releases.read_live()
    if candidate.smoke_test_result:
        file_scale = read_card(candidate.folder).file_scale
        example = Golden.load(candidate.folder).encode_example(file_scale)
        write_bytes_atomically(releases.root / EXAMPLE_IMAGE_FILENAME, example)
    return ReleaseResult(
        name=candidate.name,
        run_id=candidate.run_id,
        gate_decision=candidate.gate_decision,
        live_version=live_release.version if live_release else None,
        candidate_version=candidate.version or None,
        smoke_test_result=candidate.smoke_test_result,
        expected_label=candidate.expected_label,
        stage_seconds=seconds,
    )


def restore_live(name: str, live_release: Release, home: Home) -> ReleaseResult:
    """Build the Bento of a run that is live already, if it is missing or damaged; return the result."""
    folder = ReleaseStore(home.releases_dir(name)).version_folder(live_release.version)
    build_bento(folder, name, live_release.version, home)
    gate_decision = GateDecision(
        action="promote", reasons=(f"version {live_release.version} is live already",), checks=()
    )
    return ReleaseResult(
        name=name,
        run_id=live_release.run_id,
        gate_decision=gate_decision,
        live_version=live_release.version,
        candidate_version=live_release.version,
    )


def log_warnings(messages: Iterable[str]) -> None:
    """Log warnings in Prefect and print them on the terminal."""
    for message in messages:
        get_run_logger().warning(message)
        print_warning(message)
