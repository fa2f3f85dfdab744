"""Small home with registered versions, for tests of releases; copies of homes."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.flows.tracking import registry
from relearn.flows.tracking.relocation import relocate
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters
from relearn.serving.deployment.bento_store import MANIFESTS, bento_store_paths
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Entry, Release
from relearn.serving.releases.store import ReleaseStore

SHAPE = (1, 12, 12)


@dataclass(frozen=True)
class Zoo:
    """Home with three registered versions of model `zoo`, none of them live."""

    home: Home
    folders: dict[str, Path]
    run_ids: dict[str, str]

    @classmethod
    def open(cls, root: Path) -> "Zoo":
        home, folders, run_ids = Home(root, root), {}, {}
        experiment = Experiment.open_or_create(home, "zoo")
        for seed in (1, 2, 3):
            with experiment.start_run(f"animal {seed}", {"relearn.job_type": "train"}) as run:
                run.log_text("seen", "notes.txt")
                registry.log_classifier(run, animal(seed), np.empty((0, 2), np.uint64))
            version = registry.register(experiment.client, run.id, "zoo", {})
            run_ids[version] = run.id
            folders[version] = registry.download_classifier(
                experiment.client, run.id, root / "fetched" / version
            )
            images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
            Golden.from_classifier(animal(seed), images).save(folders[version])
        return cls(home, folders, run_ids)

    def copy(self, root: Path) -> "Zoo":
        """Copy it to the home `root`."""
        folders = {version: root / "fetched" / version for version in self.folders}
        return Zoo(copy_home(self.home, root), folders, self.run_ids)

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases_dir("zoo"))

    def promote(self, version: str, reference: str = "r", baseline: str = "") -> Entry:
        """Make `version` live, as the release flow does, without gate and aliases.

        Of its Bento there are only the manifests.
        """
        state = ReleaseState.from_store(self.releases)
        live = Release(
            version=version,
            bento=f"zoo:{version}",
            run_id=self.run_ids.get(version, f"run {version}"),
            published_at=datetime.now(UTC),
            sha256=self.releases.add_version(version, self.folders[version]),
            baseline=baseline,
            margin=0.05 if baseline else 0,
        )
        entry = record_decision(
            self.home,
            "zoo",
            state,
            action="promote",
            subject=version,
            run_id=live.run_id,
            reasons=("better",),
            fingerprints={"data": "d", "reference": reference},
            live=live,
            rollback_target=state.live.version if state.live else None,
        )
        assert entry is not None
        for store, manifest in zip(bento_store_paths("zoo", self.home), MANIFESTS, strict=True):
            (store / version).mkdir(parents=True, exist_ok=True)
            if not (store / version / manifest).exists():
                (store / version / manifest).write_text(f"name: zoo\nversion: '{version}'\n")
        return entry

    def hold(self, run_id: str) -> None:
        """Record that the run `run_id` was held."""
        state = ReleaseState.from_store(self.releases)
        record_decision(
            self.home,
            "zoo",
            state,
            action="hold",
            subject=run_id,
            run_id=run_id,
            reasons=(),
            fingerprints={"reference": state.reference_fingerprint},
            live=state.live,
            rollback_target=state.previous_version,
        )

    def version(self, number: str) -> registry.Version:
        """Return `number` as messages show it, with its run."""
        return registry.Version(number, self.run_ids[number])

    def aliases(self) -> dict[str, str]:
        aliases = connect(self.home).get_registered_model("zoo").aliases
        return {alias: str(version) for alias, version in aliases.items()}


def copy_home(home: Home, root: Path) -> Home:
    """Copy a home that no process uses to `root`; its runs are found there."""
    shutil.copytree(home.root, root)
    copied_home = Home(root, root / home.data.relative_to(home.root))
    relocate(copied_home)
    return copied_home


def animal(seed: int) -> Classifier:
    """Build an untrained classifier of three animals with `4 * seed` hidden units."""
    return animals(TrainConfig(model_name="zoo", hidden_sizes=(seed * 4,), seed=seed))


def animals(config: TrainConfig) -> Classifier:
    """Build an untrained classifier of three animals."""
    network = build_network(config, SHAPE, 3)
    card = ModelCard(
        config=config,
        dataset="zoo",
        classes=("ant", "bee", "cow"),
        shape=SHAPE,
        style="photo",
        fingerprint="f" * 64,
        parameters=count_parameters(network),
    )
    return Classifier(network, card)
