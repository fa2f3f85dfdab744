"""From a candidate to what is served: judge → register → package → try → switch, or why not."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
from prefect import flow, get_client, get_run_logger, task
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Running

from relearn.flows import registry
from relearn.flows.feedback import recent
from relearn.flows.gate import judge
from relearn.flows.measured import measure
from relearn.flows.progress import Stopwatch, warn
from relearn.flows.reference import Reference, own
from relearn.flows.results import EXAMPLE, Released, Trial, Verdict
from relearn.flows.settings import ReleaseConfig
from relearn.flows.store import connect, reached
from relearn.flows.tracking import reopen
from relearn.flows.trial import attempt
from relearn.flows.truth import Truth, agree, decide, follow
from relearn.flows.verdict import publish
from relearn.model import atomic
from relearn.model.classifier import Classifier, read_card, read_seen
from relearn.model.home import Home
from relearn.model.images import png
from relearn.serving.golden import Golden
from relearn.serving.ledger import Outcome, Release
from relearn.serving.packaging import package
from relearn.serving.releases import Releases

DEFAULT = ReleaseConfig()


@dataclass(frozen=True)
class Candidate:
    """A classifier on its way: its run, the folder it was fetched into, and how far it has come.

    `fingerprint` is that of the data it learned from, `reference` that of the images it was judged on,
    `truth` the right answer to the first of its golden images.
    """

    run_id: str
    folder: Path
    name: str
    fingerprint: str
    reference: str
    truth: str
    verdict: Verdict
    version: str = ""
    bento: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    trial: Trial | None = None

    @property
    def action(self) -> Outcome:
        return self.verdict.action

    def but(self, action: Outcome, reason: str) -> "Candidate":
        """The same, with another verdict after all."""
        reasons = (reason, *self.verdict.reasons)
        verdict = self.verdict.model_copy(update={"action": action, "reasons": reasons})
        return replace(self, verdict=verdict)


class Approval(RunInput):
    """The form of the Prefect page."""

    promote: bool = True


@flow(name="release", flow_run_name="release {run_id}")
def release(run_id: str, config: ReleaseConfig = DEFAULT) -> Released:
    """Judge the classifier of a run against the champion, try it as it would be served, switch to it.

    Where another candidate has become the champion meanwhile, it is judged again, against that one. Done
    again for the run that is live, it changes nothing.
    """
    home, watch = Home.from_environment(), Stopwatch()
    with reached(home.tracking_uri), tempfile.TemporaryDirectory() as temporary:
        folder = registry.fetch(connect(home), run_id, Path(temporary))
        name = read_card(folder).name
        tell(agree(home, name))
        while True:
            before = Truth.read(Releases(home.releases(name)))
            if before.live and before.live.run_id == run_id:
                return already_live(name, before.live)
            with watch.stage("judging"):
                candidate = weigh(run_id, folder, config, before)
            if candidate.action == "promote":
                with watch.stage("registering"):
                    candidate = register(candidate)
                with watch.stage("packaging"):
                    candidate = pack(candidate)
                with watch.stage("first answer"):
                    candidate = try_out(candidate)
            if candidate.action == "promote" and config.approve_by_hand:  # of each judgement anew
                with watch.stage("waiting for approval"):
                    candidate = ask_by_hand(candidate, config)
            with watch.stage("switching"):
                done = switch(candidate, before)
            if done:
                return outcome(candidate, watch.seconds)


@task(task_run_name="judge")
def weigh(run_id: str, folder: Path, config: ReleaseConfig, before: Truth) -> Candidate:
    """Score candidate and champion on the same images, now; the verdict goes to MLflow and Prefect.

    On those of the reference, and on the recent ones among the accepted feedback where there are any.
    Beside the candidate are put the answers that whoever serves it will be asked for.
    """
    home, classifier = Home.from_environment(), Classifier.load(folder)
    card, releases = classifier.card, Releases(home.releases(classifier.card.name))
    frozen = before.reference
    reference = Reference.load(releases, frozen) if frozen else own(card, home)
    seen, champion = read_seen(folder), None
    if before.live:
        live = releases.folder(before.live.version)
        champion, seen = Classifier.load(live), np.union1d(seen, read_seen(live))
    usable = reference.without(seen)
    told = recent(home, card.name, reference.classes, usable.images.shape[1:], seen)
    sets = {"reference": usable} | ({"recent": told} if len(told) else {})
    scored = measure(classifier, sets, reference.classes)
    usual = measure(champion, sets, reference.classes) if champion else None
    verdict = judge(scored, usual, config)
    publish(reopen(home, run_id), verdict, scored, usual, left_out=len(reference.images) - len(usable))
    if verdict.action == "promote":
        Golden.of(classifier, usable.images).save(folder)
    return Candidate(
        run_id=run_id,
        folder=folder,
        name=card.name,
        fingerprint=card.fingerprint,
        reference=reference.save(releases),
        truth=reference.classes[usable.labels[0]],
        verdict=verdict,
    )


@task(task_run_name="register")
def register(candidate: Candidate) -> Candidate:
    """Let the run be a version of the registry; however often, it is the same one."""
    home = Home.from_environment()
    client = connect(home)
    with Releases(home.releases(candidate.name)).locked():  # two at once would be two versions of one run
        return replace(candidate, version=registry.register(client, candidate.run_id, candidate.name))


@task(task_run_name="package")
def pack(candidate: Candidate) -> Candidate:
    """Keep the classifier for servers that run, then in a Bento: where the first is gone, so is the other."""
    home = Home.from_environment()
    digests = Releases(home.releases(candidate.name)).keep(candidate.version, candidate.folder)
    bento = package(candidate.folder, candidate.name, candidate.version, home)
    return replace(candidate, digests=digests, bento=bento)


@task(task_run_name="try the real server")
def try_out(candidate: Candidate) -> Candidate:
    """Start the Bento's server and ask it the golden requests; what it gets wrong is a rejection."""
    trial = attempt(candidate.bento, Golden.load(candidate.folder), Home.from_environment())
    tried = replace(candidate, trial=trial)
    return tried.but("reject", trial.refused) if trial.refused else tried


def ask_by_hand(candidate: Candidate, config: ReleaseConfig) -> Candidate:
    """Wait for a yes in the page of this flow; without one the champion stays."""
    lines = "\n\n".join(candidate.verdict.reasons)
    form = Approval.with_initial_data(
        description=f"Shall {candidate.name} {candidate.version} be served?\n\n{lines}"
    )
    try:
        said = pause_flow_run(wait_for_input=form, timeout=int(60 * config.approval_minutes), poll_interval=2)
    except FlowPauseTimeout:
        with get_client(
            sync_client=True
        ) as prefect:  # that waits no longer, and would take the rest for a failure
            prefect.set_flow_run_state(UUID(flow_run.id), Running(), force=True)
        return candidate.but("hold", f"nobody approved it within {config.approval_minutes:g} minutes")
    return candidate if said.promote else candidate.but("hold", "it was not approved by hand")


@task(task_run_name="switch")
def switch(candidate: Candidate, before: Truth) -> bool:
    """Write the decision; False where another one was made since `before`.

    From the moment the line is in the ledger a promoted candidate is live, whatever happens then.
    """
    home, action = Home.from_environment(), candidate.action
    live, previous, frozen = before.live, before.previous, before.reference
    if action == "promote":
        live = Release(
            version=candidate.version,
            bento=candidate.bento,
            run_id=candidate.run_id,
            published_at=datetime.now(UTC),
            digests=dict(candidate.digests),
        )
        previous = before.live.version if before.live else None
        frozen = candidate.reference
    fingerprints = {"data": candidate.fingerprint} | ({"reference": frozen} if frozen else {})
    entry = decide(
        home,
        candidate.name,
        before,
        action=action,
        candidate=candidate.version or f"run {candidate.run_id[:8]}",
        run_id=candidate.run_id,
        reasons=candidate.verdict.reasons,
        fingerprints=fingerprints,
        live=live,
        previous=previous,
    )
    if entry is None:
        return False
    tell(follow(home, candidate.name))
    return True


def outcome(candidate: Candidate, seconds: dict[str, float]) -> Released:
    """What the person who waits is told; with an example to send to the server."""
    home = Home.from_environment()
    releases = Releases(home.releases(candidate.name))
    live = releases.live()
    if candidate.trial:
        atomic.write_bytes(releases.root / EXAMPLE, png(Golden.load(candidate.folder).images[0]))
    return Released(
        name=candidate.name,
        run_id=candidate.run_id,
        verdict=candidate.verdict,
        live=live.version if live else None,
        version=candidate.version or None,
        trial=candidate.trial,
        truth=candidate.truth,
        seconds=seconds,
    )


def already_live(name: str, live: Release) -> Released:
    """For a flow that is tried again after it was done, or a run asked for twice."""
    verdict = Verdict(action="promote", reasons=(f"version {live.version} is live already",), checks=())
    return Released(name=name, run_id=live.run_id, verdict=verdict, live=live.version, version=live.version)


def tell(lines: Iterable[str]) -> None:
    """What was put right, on the page of the flow and on the terminal."""
    for line in lines:
        get_run_logger().warning(line)
        warn(line)
