"""From a candidate to what is served: the real gate, the real registry, the real server, one story."""

import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from relearn.flows.config import PromotionConfig
from relearn.flows.release import release
from relearn.flows.results import ReleaseResult
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.deployment.packaging import find_bento_folder
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release


@dataclass(frozen=True)
class Shop:
    """A home with digits prepared, and where candidates for it are made."""

    home: Home
    prepared: PreparedDataset
    client: MlflowClient

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases_dir("digits"))

    def trained(self, **settings: object) -> Classifier:
        """A classifier that has learned from the training images."""
        config = TrainConfig(dataset="digits", **settings)
        torch.manual_seed(config.seed)
        network = build_network(config, self.prepared.shape, len(self.prepared.classes))
        fit(config, network, self.prepared.splits, len(self.prepared.classes))
        classifier = Classifier(network, ModelCard.from_network(config, self.prepared, network))
        metrics = evaluate(classifier, self.prepared.splits.test).metrics
        return Classifier(classifier.network, classifier.card.model_copy(update={"metrics": metrics}))

    def run_of(self, classifier: Classifier, seen: np.ndarray | None = None) -> str:
        """The id of a run that has logged it."""
        tags = {"relearn.job_type": "train"}
        with Experiment.open_or_create(self.home, "digits").start_run("candidate", tags) as run:
            registry.log_classifier(
                run, classifier, self.prepared.splits.train_val_hashes if seen is None else seen
            )
        return run.id

    def alias(self, name: str) -> str | None:
        return {
            key: str(value) for key, value in self.client.get_registered_model("digits").aliases.items()
        }.get(name)


@pytest.fixture
def shop(copied: Home, on_server: str) -> Shop:
    """The home in the state that the first `relearn run` left, without its release."""
    client = connect(copied)
    client.delete_registered_model("digits")
    return Shop(copied, prepare_dataset(TrainConfig(dataset="digits"), copied), client)


@pytest.fixture(scope="module")
def weak() -> dict[str, object]:
    """Settings of a network that has not learned enough."""
    return {"epochs": 1, "hidden_sizes": (16,), "learning_rate": 0.02}


@pytest.fixture(scope="module")
def strong() -> dict[str, object]:
    return {"epochs": 12, "hidden_sizes": (128,)}


@pytest.fixture
def person(on_server: str) -> Iterator[Callable[..., None]]:
    """Gives these answers, or what they return, in the page of the flow that asks, one after the other."""
    threads = []

    def answer(said: list[bool | Callable[[], bool]]) -> None:
        for one in said:
            while not (waiting := _flows(on_server, state={"type": {"any_": ["PAUSED"]}})):
                time.sleep(0.1)
            yes = one() if callable(one) else one
            where = f"{on_server}/api/flow_runs/{waiting[0]['id']}/resume"
            while not httpx.post(where, json={"run_input": {"promote": yes}}).is_success:
                time.sleep(0.1)  # 503 while SQLite is busy
            while _flows(on_server, state={"type": {"any_": ["PAUSED"]}}):
                time.sleep(0.1)

    def begin(*said: bool | Callable[[], bool]) -> None:
        threads.append(Thread(target=copy_context().run, args=(answer, list(said)), daemon=True))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def _flows(on_server: str, **filters: object) -> list[dict]:
    asked = {"flow_runs": filters, "flows": {"name": {"any_": ["release"]}}, "sort": "START_TIME_DESC"}
    return httpx.post(f"{on_server}/api/flow_runs/filter", json=asked).raise_for_status().json()


def permuted(classifier: Classifier) -> Classifier:
    """Its last layer answers with the classes in another order, its card does not say so."""
    last = [module for module in classifier.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(1, 0))
        last.bias.copy_(last.bias.roll(1, 0))
    return classifier


def broken(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        next(classifier.network.parameters())[0, 0] = float("nan")
    return classifier


def reordered(classifier: Classifier) -> Classifier:
    """The same network, its card with the classes from the last to the first."""
    card = classifier.card
    return Classifier(classifier.network, card.model_copy(update={"classes": card.classes[::-1]}))


def test_better_is_promoted_and_served_for_real(shop: Shop, weak: dict, strong: dict) -> None:
    """The first is released; a better one takes its place: ledger, pointer, aliases, Bento and run agree."""
    first = release(shop.run_of(shop.trained(**weak)))
    assert ("promote", "1", "1") == (first.gate_decision.action, first.candidate_version, first.live_version)
    assert ("1", None) == (shop.alias("champion"), shop.alias("previous"))

    run_id = shop.run_of(shop.trained(**strong))
    second = release(run_id)
    assert ("promote", "2", "2") == (
        second.gate_decision.action,
        second.candidate_version,
        second.live_version,
    )
    assert ("2", "1") == (shop.alias("champion"), shop.alias("previous"))
    assert "2" == second.smoke_test_result.first_prediction.version
    assert second.smoke_test_result.latency_ms > 0

    one, two = shop.releases.ledger.read_entries()
    assert (None, "1", "1", "2") == (one.previous_live, one.live.version, two.previous_live, two.live.version)
    assert ("promote", run_id, "1") == (two.action, two.run_id, two.rollback_target)
    assert two.live == shop.releases.read_current()
    assert one.fingerprints == two.fingerprints
    assert shop.prepared.fingerprint == two.fingerprints["data"]
    assert "2" == load_release(shop.releases, two.live).version
    files = {file.path for file in shop.client.list_artifacts(run_id, "gate")}
    assert {"gate/verdict.md", "gate/comparison.png"} == files
    assert "promote" == shop.client.get_run(run_id).data.tags["relearn.gate_decision"]


def test_a_run_is_released_once(shop: Shop, weak: dict) -> None:
    """A flow that is tried again, or a run that is asked for twice, makes no second version or line."""
    run_id = shop.run_of(shop.trained(**weak))
    first, again = release(run_id), release(run_id)

    assert (first.candidate_version, "version 1 is live already") == (
        again.candidate_version,
        again.gate_decision.reasons[0],
    )
    assert 1 == len(shop.releases.ledger.read_entries())
    assert 1 == len(shop.client.search_model_versions("name = 'digits'"))


@pytest.mark.parametrize(
    ("sabotage", "cause"),
    [
        (permuted, "worse on reference"),
        (broken, "weights: got NaN or infinite numbers"),
        (reordered, "classes: got 9, 8, 7"),
    ],
)
def test_sabotage_is_rejected_by_its_cause(
    shop: Shop, weak: dict, sabotage: Callable[[Classifier], Classifier], cause: str
) -> None:
    """Nothing of what is live moves, no version is registered, and the ledger says why."""
    release(shop.run_of(shop.trained(**weak)))
    before = shop.releases.read_current()
    released = release(shop.run_of(sabotage(shop.trained(**weak))))

    assert ("reject", "1", None) == (
        released.gate_decision.action,
        released.live_version,
        released.candidate_version,
    )
    assert any(cause in reason for reason in released.gate_decision.reasons)
    assert before == shop.releases.read_current()
    last = shop.releases.ledger.read_last()
    assert ("reject", before, released.gate_decision.reasons) == (last.action, last.live, last.reasons)
    assert 1 == len(shop.client.search_model_versions("name = 'digits'"))


def test_no_difference_is_a_hold(shop: Shop, weak: dict) -> None:
    """The same network under another run: the champion stays, with the interval as the reason."""
    release(shop.run_of(shop.trained(**weak)))
    released = release(shop.run_of(shop.trained(**weak)))

    assert ("hold", "1") == (released.gate_decision.action, released.live_version)
    assert "version 1 stays live" in released.headline
    assert "+0.00 points on 292 images (95 % interval +0.00 to +0.00)" in released.headline
    assert 1 == len(shop.client.search_model_versions("name = 'digits'"))


def test_images_that_were_learned_from_do_not_count(shop: Shop, weak: dict, strong: dict) -> None:
    """Who has seen a part of the reference is judged on the rest, and so is the champion."""
    from relearn.model.data.splits import hash_contents

    release(shop.run_of(shop.trained(**weak)))
    test = hash_contents(shop.prepared.splits.test.images)
    released = release(shop.run_of(shop.trained(**strong), seen=test[:100]))

    assert (
        len(np.unique(test[100:]))
        <= released.gate_decision.comparisons["reference"].images
        <= len(test) - 100
    )
    page = shop.client.download_artifacts(released.run_id, "gate/verdict.md")
    assert "100 reference images were left out" in Path(page).read_text()


def other_weights(home: Home, bento: str) -> None:
    weights = home.bentoml / "models" / bento.replace(":", "/") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")


def out_of_order(home: Home, bento: str) -> None:
    service = find_bento_folder(bento, home) / "src" / "relearn" / "serving" / "service.py"
    service.write_text("raise SystemExit('out of order')")


@pytest.mark.parametrize(
    ("damage", "told"),
    [(other_weights, "as served"), (out_of_order, "as served: the server ended with code 1")],
)
def test_what_is_not_served_as_it_was_judged_is_rejected(
    shop: Shop,
    weak: dict,
    strong: dict,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Home, str], None],
    told: str,
) -> None:
    """The real server answers otherwise, or does not come up: nobody's place is taken, and it is told why."""
    from relearn.flows import release as module

    release(shop.run_of(shop.trained(**weak)))
    whole = module.build_bento

    def damaged(folder: Path, name: str, version: str, home: Home) -> str:
        bento = whole(folder, name, version, home)
        damage(home, bento)
        return bento

    monkeypatch.setattr(module, "build_bento", damaged)
    released = release(shop.run_of(shop.trained(**strong)))

    assert ("reject", "1") == (released.gate_decision.action, released.live_version)
    assert released.gate_decision.reasons[0].startswith(told)
    assert "1" == shop.alias("champion")


def test_the_reference_is_the_one_of_the_first_release(shop: Shop, weak: dict, tmp_path: Path) -> None:
    """Data that changed since is no matter: both sides are scored on the frozen images."""
    release(shop.run_of(shop.trained(**weak)))
    classifier = shop.trained(**weak)
    card = classifier.card.model_copy(update={"fingerprint": "e" * 64})
    released = release(shop.run_of(Classifier(classifier.network, card)))

    first, last = shop.releases.ledger.read_entries()
    assert ("hold", "e" * 64) == (released.gate_decision.action, last.fingerprints["data"])
    assert first.fingerprints["reference"] == last.fingerprints["reference"]


def test_data_that_changed_before_the_first_release_is_said(shop: Shop, weak: dict) -> None:
    """Without a reference the candidate's own test images are needed, and they have to be those."""
    classifier = shop.trained(**weak)
    card = classifier.card.model_copy(update={"fingerprint": "e" * 64})
    with pytest.raises(DataError, match="has changed since this classifier learned from it"):
        release(shop.run_of(Classifier(classifier.network, card)))
    assert [] == shop.releases.ledger.read_entries()


def test_who_was_faster_is_the_champion_to_beat(
    shop: Shop, weak: dict, strong: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate whose champion was replaced while it was tried is judged again, against the new one."""
    from relearn.flows import release as module

    release(shop.run_of(shop.trained(**weak)))
    slow, fast = shop.run_of(shop.trained(**strong)), shop.run_of(shop.trained(**strong))
    attempt, inner = module.run_smoke_test, []

    def interrupted(*arguments: object) -> object:
        if not inner:
            inner.append(None)
            inner[0] = release(fast)
        return attempt(*arguments)

    monkeypatch.setattr(module, "run_smoke_test", interrupted)
    released: ReleaseResult = release(slow)

    assert ("promote", "hold") == (inner[0].gate_decision.action, released.gate_decision.action)
    entries = shop.releases.ledger.read_entries()
    assert ["promote", "promote", "hold"] == [entry.action for entry in entries]
    assert inner[0].live == released.live_version == shop.alias("champion")
    assert "+0.00 points" in released.gate_decision.reasons[0]


@pytest.mark.parametrize(
    ("yes", "outcome"), [(True, ("promote", "1")), (False, ("hold", None))], ids=["yes", "no"]
)
def test_who_is_asked_decides(
    shop: Shop, weak: dict, person: Callable[..., None], yes: bool, outcome: tuple[str, str | None]
) -> None:
    """The answer in the page is what happens."""
    run_id = shop.run_of(shop.trained(**weak))
    person(yes)
    released = release(run_id, PromotionConfig(manual_approval=True, approval_timeout_minutes=1))

    assert outcome == (released.gate_decision.action, released.live_version)
    assert yes or "it was not approved by hand" == released.gate_decision.reasons[0]


@pytest.mark.slow
def test_a_yes_is_for_one_judgement(
    shop: Shop, weak: dict, strong: dict, person: Callable[..., None]
) -> None:
    """Who said yes to taking one champion's place is asked again where meanwhile there is another."""
    release(shop.run_of(shop.trained(**weak)))
    slow, fast = shop.run_of(shop.trained(**strong)), shop.run_of(shop.trained(**strong))
    person(lambda: bool(release(fast)), False)
    config = PromotionConfig(manual_approval=True, approval_timeout_minutes=1, promotion_rule="non_inferior")
    released = release(slow, config)

    assert ("hold", "it was not approved by hand") == (
        released.gate_decision.action,
        released.gate_decision.reasons[0],
    )
    assert fast == shop.releases.read_current().run_id


def test_a_yes_by_hand_is_waited_for(shop: Shop, weak: dict, on_server: str) -> None:
    """Nobody says yes: the champion stays, and the history says that nobody did."""
    config = PromotionConfig(manual_approval=True, approval_timeout_minutes=0.05)
    released = release(shop.run_of(shop.trained(**weak)), config)

    assert ("hold", None) == (released.gate_decision.action, released.live_version)
    assert "nobody approved it within 0.05 minutes" == released.gate_decision.reasons[0]
    assert "COMPLETED" == _flows(on_server)[0]["state"]["type"]


def test_the_verdict_is_an_artifact_of_the_flow(shop: Shop, weak: dict, on_server: str) -> None:
    """The page of the flow shows the verdict first, then every number."""
    release(shop.run_of(shop.trained(**weak)))
    release(shop.run_of(shop.trained(**weak)))
    asked = {"artifacts": {"key": {"any_": ["verdict"]}}, "sort": "CREATED_DESC", "limit": 1}
    (artifact,) = httpx.post(f"{on_server}/api/artifacts/filter", json=asked).json()

    assert artifact["data"].startswith("# HOLD\n\n- reference: ")
    assert "| milliseconds an image | " in artifact["data"]
