"""A small home with registered versions, for tests of what is live and what is kept."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from relearn.flows import registry
from relearn.flows.store import connect
from relearn.flows.tracking import Experiment
from relearn.flows.truth import Truth, decide
from relearn.model.classifier import Card, Classifier
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.networks import build, count
from relearn.serving.golden import Golden
from relearn.serving.ledger import Entry, Release
from relearn.serving.releases import Releases

SHAPE = (1, 12, 12)


@dataclass(frozen=True)
class Zoo:
    """A home with three registered versions of `zoo`, of which none is live yet."""

    home: Home
    folders: dict[str, Path]

    @classmethod
    def open(cls, root: Path) -> "Zoo":
        home, folders = Home(root, root), {}
        experiment = Experiment.open(home, "zoo")
        for seed in (1, 2, 3):
            with experiment.run(f"animal {seed}", {"relearn.kind": "train"}) as run:
                run.text("seen", "notes.txt")
                registry.log(run, animal(seed), np.empty(0, np.uint64))
            version = registry.register(experiment.client, run.id, "zoo")
            folders[version] = registry.fetch(experiment.client, run.id, root / "fetched" / version)
            images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
            Golden.of(animal(seed), images).save(folders[version])
        return cls(home, folders)

    def copy(self, root: Path) -> "Zoo":
        """The same in a home of its own."""
        shutil.copytree(self.home.root, root)
        places = {
            "experiments": "artifact_location",
            "runs": "artifact_uri",
            "logged_models": "artifact_location",
        }
        with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as database:
            for table, column in places.items():
                moved = f"update {table} set {column} = replace({column}, ?, ?)"
                database.execute(moved, [f"{self.home.root}/", f"{root}/"])
        return Zoo(Home(root, root), {version: root / "fetched" / version for version in self.folders})

    @property
    def releases(self) -> Releases:
        return Releases(self.home.releases("zoo"))

    def promote(self, version: str, reference: str = "r") -> Entry:
        """Let `version` be live, as the flow does, but for the gate, the Bento and the aliases."""
        now = Truth.read(self.releases)
        live = Release(
            version=version,
            bento=f"zoo:{version}",
            run_id=f"run {version}",
            published_at=datetime.now(UTC),
            digests=self.releases.keep(version, self.folders[version]),
        )
        entry = decide(
            self.home,
            "zoo",
            now,
            action="promote",
            candidate=version,
            run_id=live.run_id,
            reasons=("better",),
            fingerprints={"data": "d", "reference": reference},
            live=live,
            previous=now.live.version if now.live else None,
        )
        assert entry is not None
        return entry

    def aliases(self) -> dict[str, str]:
        found = connect(self.home).get_registered_model("zoo").aliases
        return {alias: str(version) for alias, version in found.items()}


def animal(seed: int) -> Classifier:
    return animals(TrainConfig(name="zoo", hidden=(seed * 4,), seed=seed))


def animals(config: TrainConfig) -> Classifier:
    """An untrained classifier of three animals."""
    network = build(config, SHAPE, 3)
    card = Card(
        config=config,
        dataset="zoo",
        classes=("ant", "bee", "cow"),
        shape=SHAPE,
        style="plain",
        fingerprint="f" * 64,
        parameters=count(network),
    )
    return Classifier(network, card)
