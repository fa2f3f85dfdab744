"""The release flow with the real gate, registry and server."""

import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from relearn.flows.config import PromotionConfig
from relearn.flows.release import release
from relearn.flows.releases.rollback import roll_back
from relearn.flows.results import ReleaseResult
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.deployment.bento_store import find_bento_folder
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.conftest import report_to
from tests.flows.zoo import copy_home


@dataclass(frozen=True)
class Workspace:
    """Home with prepared digits, in which candidates are trained."""

    home: Home
    prepared: PreparedDataset
    client: MlflowClient

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases_dir("digits"))

    def train(self, **settings: object) -> Classifier:
        """Return a classifier trained on the training images."""
        config = TrainConfig(**{"dataset": "digits", **settings})
        torch.manual_seed(config.seed)
        network = build_network(config, self.prepared.shape, len(self.prepared.classes))
        fit(config, network, self.prepared.splits, len(self.prepared.classes))
        classifier = Classifier(network, ModelCard.from_network(config, self.prepared, network))
        metrics = evaluate(classifier, self.prepared.splits.test).metrics
        return Classifier(classifier.network, classifier.card.model_copy(update={"metrics": metrics}))

    def log_run(self, classifier: Classifier, training_hashes: np.ndarray | None = None) -> str:
        """Log `classifier` in a new run; return its id."""
        tags = {"relearn.job_type": "train"}
        with Experiment.open_or_create(self.home, "digits").start_run("candidate", tags) as run:
            hashes = self.prepared.splits.train_val_hashes if training_hashes is None else training_hashes
            registry.log_classifier(run, classifier, hashes)
        return run.id

    def alias(self, name: str) -> str | None:
        aliases = self.client.get_registered_model("digits").aliases
        return str(aliases[name]) if name in aliases else None


@pytest.fixture
def workspace(copied: Home, on_server: str) -> Workspace:
    """The home of the first `relearn run`, without its release."""
    return open_workspace(copied)


@pytest.fixture(scope="module")
def released_once(
    copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> Home:
    """A home whose champion is a weak network, read-only."""
    with report_to(prefect_server), pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("released") / "home"
        patch.setenv("RELEARN_HOME", str(root))
        workspace = open_workspace(copy(root))
        release(workspace.log_run(workspace.train(**WEAK)))
        return workspace.home


@pytest.fixture
def champion(
    released_once: Home, on_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A home for this test whose champion, version 1, is a weak network."""
    root = tmp_path / "home"
    monkeypatch.setenv("RELEARN_HOME", str(root))
    home = copy_home(released_once, root)
    return Workspace(home, prepare_dataset(TrainConfig(dataset="digits"), home), connect(home))


def open_workspace(home: Home) -> Workspace:
    client = connect(home)
    client.delete_registered_model("digits")
    return Workspace(home, prepare_dataset(TrainConfig(dataset="digits"), home), client)


WEAK = {"epochs": 1, "hidden_sizes": (16,), "learning_rate": 0.02}  # trained too little
STRONG = {"epochs": 12, "hidden_sizes": (128,)}


@pytest.fixture
def approver(on_server: str) -> Iterator[Callable[..., None]]:
    """Return a function that sends these approvals, or what they return, to each paused flow run in turn."""
    threads = []

    def send(approvals: list[bool | Callable[[], bool]]) -> None:
        for approval in approvals:
            while not (paused := _search_flow_runs(on_server, state={"type": {"any_": ["PAUSED"]}})):
                time.sleep(0.1)
            promote = approval() if callable(approval) else approval
            url = f"{on_server}/api/flow_runs/{paused[0]['id']}/resume"
            while not httpx.post(url, json={"run_input": {"promote": promote}}).is_success:
                time.sleep(0.1)  # 503 while SQLite is busy
            while _search_flow_runs(on_server, state={"type": {"any_": ["PAUSED"]}}):
                time.sleep(0.1)

    def start(*approvals: bool | Callable[[], bool]) -> None:
        threads.append(Thread(target=copy_context().run, args=(send, list(approvals)), daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def _search_flow_runs(on_server: str, **filters: object) -> list[dict]:
    query = {"flow_runs": filters, "flows": {"name": {"any_": ["release"]}}, "sort": "START_TIME_DESC"}
    return httpx.post(f"{on_server}/api/flow_runs/filter", json=query).raise_for_status().json()


def permute_outputs(classifier: Classifier) -> Classifier:
    """Permute the outputs of the last layer, but not the classes of the card."""
    linear = [module for module in classifier.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        linear.weight.copy_(linear.weight.roll(1, 0))
        linear.bias.copy_(linear.bias.roll(1, 0))
    return classifier


def set_nan(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        next(classifier.network.parameters())[0, 0] = float("nan")
    return classifier


def reverse_classes(classifier: Classifier) -> Classifier:
    """Return the same network with the classes of its card reversed."""
    card = classifier.card
    return Classifier(classifier.network, card.model_copy(update={"classes": card.classes[::-1]}))


def test_better_candidate_is_promoted_and_served(champion: Workspace) -> None:
    """After the first release and after the second, ledger, aliases, Bento and run agree."""
    workspace = champion
    assert ("1", None) == (workspace.alias("champion"), workspace.alias("previous"))

    run_id = workspace.log_run(workspace.train(**STRONG))
    second = release(run_id)
    assert ("promote", "2", "2") == (
        second.gate_decision.action,
        second.candidate_version,
        second.live_version,
    )
    assert ("2", "1") == (workspace.alias("champion"), workspace.alias("previous"))
    assert "2" == second.smoke_test_result.first_prediction.version
    assert second.smoke_test_result.latency_ms > 0

    entry, last = workspace.releases.ledger.read_entries()
    assert ("promote", "1") == (entry.action, entry.subject)
    assert (None, "1") == (entry.previous_live, entry.live.version)
    assert ("1", "2") == (last.previous_live, last.live.version)
    assert ("promote", run_id, "1") == (last.action, last.run_id, last.rollback_target)
    assert last.live == workspace.releases.read_live()
    assert entry.fingerprints == last.fingerprints
    assert workspace.prepared.fingerprint == last.fingerprints["data"]
    assert "2" == load_release(workspace.releases, last.live).version
    files = {file.path for file in workspace.client.list_artifacts(run_id, "gate")}
    assert {"gate/decision.md", "gate/decision.json", "gate/comparison.png"} == files
    assert "promote" == workspace.client.get_run(run_id).data.tags["relearn.gate_decision"]


@pytest.mark.slow
def test_release_after_the_registered_model_was_deleted(champion: Workspace) -> None:
    """MLflow counts from 1 again; the next release still gets version 2, and the aliases name both runs."""
    champion.client.delete_registered_model("digits")
    run_id = champion.log_run(champion.train(**STRONG))
    result = release(run_id)
    assert ("promote", "2") == (result.gate_decision.action, result.live_version)
    first, second = champion.releases.ledger.read_entries()
    assert {"1": first.run_id, "2": run_id} == registry.list_versions(champion.client, "digits")
    assert ("2", "1", run_id) == (champion.alias("champion"), champion.alias("previous"), second.run_id)


def test_run_is_released_once(champion: Workspace) -> None:
    """A second release of the same run creates no version and no ledger entry; it repairs the Bento."""
    (first,) = champion.releases.ledger.read_entries()
    (find_bento_folder("digits:1", champion.home) / "bento.yaml").write_bytes(b"")
    second = release(first.run_id)

    assert (first.subject, "version 1 is live already") == (
        second.candidate_version,
        second.gate_decision.reasons[0],
    )
    assert [first] == champion.releases.ledger.read_entries()
    assert find_bento_folder("digits:1", champion.home)
    assert 1 == len(champion.client.search_model_versions("name = 'digits'"))


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        (permute_outputs, "accuracy: got"),
        (set_nan, "weights: got NaN or infinite numbers"),
        (reverse_classes, "classes: got 9, 8, 7"),
    ],
)
def test_sabotaged_candidate_is_rejected_with_its_reason(
    champion: Workspace, sabotage: Callable[[Classifier], Classifier], reason: str
) -> None:
    """The champion stays live, no version is registered, and the ledger has the reason."""
    live = champion.releases.read_live()
    released = release(champion.log_run(sabotage(champion.train(**WEAK))))

    assert ("reject", "1", None) == (
        released.gate_decision.action,
        released.live_version,
        released.candidate_version,
    )
    assert any(reason in line for line in released.gate_decision.reasons)
    assert live == champion.releases.read_live()
    last = champion.releases.ledger.read_last()
    assert ("reject", live, released.gate_decision.reasons) == (last.action, last.live, last.reasons)
    assert 1 == len(champion.client.search_model_versions("name = 'digits'"))


def test_equal_candidate_is_held(champion: Workspace) -> None:
    """The champion stays live, with the interval as the reason."""
    released = release(champion.log_run(champion.train(**WEAK)))

    assert ("hold", "1") == (released.gate_decision.action, released.live_version)
    assert "version 1 stays live" in released.summary
    assert "+0.00 points on 292 images (95 % interval -1.30 to +1.30)" in released.summary
    assert 1 == len(champion.client.search_model_versions("name = 'digits'"))


@pytest.mark.slow
def test_candidate_with_more_data_replaces_an_equal_champion(champion: Workspace) -> None:
    """Each learned from all images of the last and one more; losses are measured from the first release."""
    hashes, same = champion.prepared.splits.train_val_hashes, champion.train(**WEAK)
    margins = set[float]()

    for version in ("2", "3"):
        hashes = np.append(hashes, np.full((1, 2), int(version), np.uint64), 0)  # an image in no split
        released = release(champion.log_run(same, hashes))

        assert ("promote", version) == (released.gate_decision.action, released.live_version)
        assert "it learned from more data and loses less than" in released.summary
        assert "1" == champion.releases.read_live().baseline
        margins.add(champion.releases.read_live().margin)
    assert 1 == len(margins)
    fewer = release(champion.log_run(same, hashes[1:]))

    assert ("hold", "3") == (fewer.gate_decision.action, fewer.live_version)


def test_training_images_are_excluded_from_the_reference_set(champion: Workspace) -> None:
    """Candidate and champion are compared on the images that neither was trained on."""
    from relearn.model.data.splits import hash_contents

    test_hashes = hash_contents(champion.prepared.splits.test.images)
    released = release(champion.log_run(champion.train(**WEAK), test_hashes[:100, None]))

    images = released.gate_decision.comparison.images
    assert len(np.unique(test_hashes[100:])) <= images <= len(test_hashes) - 100
    report = champion.client.download_artifacts(released.run_id, "gate/decision.md")
    assert "100 reference images were excluded" in Path(report).read_text()


def corrupt_weights(home: Home, bento: str) -> None:
    weights = home.bentoml / "models" / bento.replace(":", "/") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")


def break_service(home: Home, bento: str) -> None:
    service = find_bento_folder(bento, home) / "src" / "relearn" / "serving" / "service.py"
    service.write_text("raise SystemExit('out of order')")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (corrupt_weights, "as served"),
        pytest.param(break_service, "as served: the server ended with code 1", marks=pytest.mark.slow),
    ],
)
def test_candidate_that_fails_the_smoke_test_is_rejected(
    champion: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Home, str], None],
    reason: str,
) -> None:
    """If the real server predicts otherwise or does not start, the champion stays, with the reason."""
    from relearn.flows import release as module

    build_bento = module.build_bento

    def build_damaged_bento(folder: Path, name: str, version: str, home: Home) -> str:
        bento = build_bento(folder, name, version, home)
        damage(home, bento)
        return bento

    monkeypatch.setattr(module, "build_bento", build_damaged_bento)
    released = release(champion.log_run(champion.train(**STRONG)))

    assert ("reject", "1") == (released.gate_decision.action, released.live_version)
    assert released.gate_decision.reasons[0].startswith(reason)
    assert "1" == champion.alias("champion")


def test_reference_set_is_frozen_by_the_first_release(champion: Workspace, tmp_path: Path) -> None:
    """A later candidate with other data is scored on the frozen images."""
    classifier = champion.train(**WEAK)
    card = classifier.card.model_copy(update={"fingerprint": "e" * 64})
    released = release(champion.log_run(Classifier(classifier.network, card)))

    first, last = champion.releases.ledger.read_entries()
    assert ("hold", "e" * 64) == (released.gate_decision.action, last.fingerprints["data"])
    assert first.fingerprints["reference"] == last.fingerprints["reference"]


@pytest.mark.slow
def test_candidate_that_sees_more_pixels_replaces_the_champion(champion: Workspace) -> None:
    """Both are scored on the same reference images, each at its own size."""
    config = TrainConfig(dataset="digits", image_size=40)
    larger = replace(champion, prepared=prepare_dataset(config, champion.home))
    candidate = larger.train(image_size=40, **STRONG)
    released = release(larger.log_run(candidate))

    assert ("promote", "2") == (released.gate_decision.action, released.live_version)
    assert len(larger.prepared.splits.test) == released.gate_decision.comparison.images
    assert "1 × 40 × 40" in released.gate_decision.reasons[1]


def test_candidate_with_a_new_class_replaces_the_champion(champion: Workspace, tmp_path: Path) -> None:
    """It brings the reference set of its classes; a rollback brings the earlier one back."""
    digits = champion.prepared.splits
    images = np.concatenate([digits.train.images[:, 0], digits.test.images[:, 0]])
    labels = np.concatenate([digits.train.labels, digits.test.labels]).astype(str)
    noise = np.zeros((150, 28, 28), np.uint8)
    noise[:, 6:22, 6:22] = np.random.default_rng(0).integers(0, 256, (150, 16, 16))
    np.savez(
        tmp_path / "eleven.npz",
        images=np.concatenate([images, noise]),
        labels=np.concatenate([labels, np.full(150, "x")]),
    )
    settings = {"dataset": f"npz:{tmp_path / 'eleven.npz'}", "model_name": "digits"} | STRONG
    eleven = replace(champion, prepared=prepare_dataset(TrainConfig(**settings), champion.home))
    released = release(eleven.log_run(eleven.train(**settings)))

    assert ("promote", "2") == (released.gate_decision.action, released.live_version)
    tested = eleven.prepared.splits.test.labels
    assert released.gate_decision.comparison.images <= (tested < 10).sum()
    assert "recall of the new class x" in [check.name for check in released.gate_decision.checks]
    first, second = champion.releases.ledger.read_entries()
    assert first.fingerprints["reference"] != second.fingerprints["reference"]
    back = roll_back(champion.home, "digits", None, "to test it")
    assert first.fingerprints["reference"] == back.fingerprints["reference"]


def test_changed_data_stops_the_first_release(workspace: Workspace) -> None:
    """Without a reference set the candidate's own test images are needed, unchanged."""
    classifier = workspace.train(**WEAK)
    card = classifier.card.model_copy(update={"fingerprint": "e" * 64})
    with pytest.raises(DataError, match="has changed since this classifier was trained on it"):
        release(workspace.log_run(Classifier(classifier.network, card)))
    assert [] == workspace.releases.ledger.read_entries()


@pytest.mark.slow
def test_candidate_is_evaluated_again_if_the_champion_changes(
    champion: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another release ends during the smoke test, the candidate is compared with the new champion."""
    from relearn.flows import release as module

    slow, fast = champion.log_run(champion.train(**STRONG)), champion.log_run(champion.train(**STRONG))
    run_smoke_test, is_first_call = module.run_smoke_test, True
    fast_result: ReleaseResult | None = None

    def release_fast_first(*arguments: object) -> object:
        nonlocal is_first_call, fast_result
        if is_first_call:
            is_first_call = False
            fast_result = release(fast)
        return run_smoke_test(*arguments)

    monkeypatch.setattr(module, "run_smoke_test", release_fast_first)
    released: ReleaseResult = release(slow)

    assert fast_result is not None
    assert ("promote", "hold") == (fast_result.gate_decision.action, released.gate_decision.action)
    entries = champion.releases.ledger.read_entries()
    assert ["promote", "promote", "hold"] == [entry.action for entry in entries]
    assert fast_result.live_version == released.live_version == champion.alias("champion")
    assert "+0.00 points" in released.gate_decision.reasons[0]


@pytest.mark.parametrize(
    ("is_approved", "outcome"),
    [
        pytest.param(True, ("promote", "1"), id="yes"),
        pytest.param(False, ("hold", None), id="no", marks=pytest.mark.slow),
    ],
)
def test_manual_approval_decides(
    workspace: Workspace,
    approver: Callable[..., None],
    is_approved: bool,
    outcome: tuple[str, str | None],
) -> None:
    """An approved candidate is promoted, another one is held."""
    run_id = workspace.log_run(workspace.train(**WEAK))
    approver(is_approved)
    released = release(run_id, PromotionConfig(manual_approval=True, approval_timeout_minutes=1))

    assert outcome == (released.gate_decision.action, released.live_version)
    assert is_approved or "it was not approved by hand" == released.gate_decision.reasons[0]


@pytest.mark.slow
def test_approval_is_valid_for_one_gate_decision(champion: Workspace, approver: Callable[..., None]) -> None:
    """If the champion changes after the approval, the candidate has to be approved again."""
    slow, fast = champion.log_run(champion.train(**STRONG)), champion.log_run(champion.train(**STRONG))
    approver(lambda: bool(release(fast)), False)
    config = PromotionConfig(
        manual_approval=True,
        approval_timeout_minutes=1,
        promotion_rule="non_inferior",
        non_inferiority_margin=0.02,
    )
    released = release(slow, config)

    assert ("hold", "it was not approved by hand") == (
        released.gate_decision.action,
        released.gate_decision.reasons[0],
    )
    assert fast == champion.releases.read_live().run_id


def test_candidate_without_approval_is_held(workspace: Workspace, on_server: str) -> None:
    """After the timeout the flow run is COMPLETED, with the reason."""
    config = PromotionConfig(manual_approval=True, approval_timeout_minutes=0.05)
    released = release(workspace.log_run(workspace.train(**WEAK)), config)

    assert ("hold", None) == (released.gate_decision.action, released.live_version)
    assert "nobody approved it within 0.05 minutes" == released.gate_decision.reasons[0]
    assert "COMPLETED" == _search_flow_runs(on_server)[0]["state"]["type"]


def test_gate_report_is_an_artifact_of_the_flow_run(champion: Workspace, on_server: str) -> None:
    """It has the decision first, then every guardrail."""
    release(champion.log_run(champion.train(**WEAK)))
    query = {"artifacts": {"key": {"any_": ["gate-decision"]}}, "sort": "CREATED_DESC", "limit": 1}
    (artifact,) = httpx.post(f"{on_server}/api/artifacts/filter", json=query).json()

    assert artifact["data"].startswith("# HOLD\n\n- +0.00 points on 292 images")
    assert "| classes | " in artifact["data"]
