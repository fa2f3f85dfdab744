"""Checkpoints: a resumed training reaches the same weights, and damaged checkpoints are not used."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.errors import ConfigError, CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.networks.registry import build_network
from relearn.model.training import checkpoints
from relearn.model.training.checkpoints import Checkpoint
from relearn.model.training.fit import FitResult, fit
from relearn.model.training.state import EpochRecord, TrainingSnapshot

SHAPE, CLASSES, FINGERPRINT = (1, 12, 12), 4, "f" * 64


def make_images(count: int, seed: int) -> LabelledImages:
    rng = np.random.default_rng(seed)
    return LabelledImages(
        rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, count)
    )


SPLITS = Splits(make_images(200, 0), make_images(60, 1), make_images(60, 2))


def make_config(**settings: object) -> TrainConfig:
    return TrainConfig.parse(
        {"hidden_sizes": [16], "batch_size": 32, "threads": 1, "epochs": 4, "dropout": 0.3, **settings}
    )


def train(
    config: TrainConfig,
    initial_snapshot: TrainingSnapshot | None = None,
    on_checkpoint: Callable[[TrainingSnapshot], None] = lambda snapshot: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[nn.Module, FitResult]:
    network = build_network(config, SHAPE, CLASSES)
    return network, fit(
        config,
        network,
        SPLITS,
        CLASSES,
        initial_snapshot=initial_snapshot,
        on_checkpoint=on_checkpoint,
        should_stop=should_stop,
    )


def save_to(folder: Path, config: TrainConfig) -> Callable[[TrainingSnapshot], None]:
    def save(snapshot: TrainingSnapshot) -> None:
        checkpoints.save_checkpoint(folder, Checkpoint(config, FINGERPRINT, snapshot))

    return save


def assert_equal_weights(expected: nn.Module, actual: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(value, actual.state_dict()[name]), name


def history_without_seconds(result: FitResult) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in result.history]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with two checkpoints of a training of two epochs."""
    config = make_config(epochs=2)
    train(config, on_checkpoint=save_to(tmp_path / "run", config))
    return tmp_path / "run"


def newest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"network": "cnn"},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "lr_schedule": "cosine"},
        {"optimizer": "adagrad", "learning_rate": 0.01, "lr_schedule": "constant"},
        {"optimizer": "adam", "learning_rate": 0.001, "weight_decay": 0.01, "label_smoothing": 0.1},
        {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01, "class_weights": "balanced"},
        {"batch_norm": True, "selection_metric": "val_accuracy"},
        {"selection_metric": "val_balanced_accuracy"},
        {"augmentation": "light"},
        {"augmentation": "photo"},
        {"augmentation": "strong"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
@pytest.mark.parametrize("batches", [1, 7, 12, 20])
def test_resumed_training_reaches_the_same_weights(
    settings: dict[str, object], batches: int, tmp_path: Path
) -> None:
    """Weights, history and stop reason equal those of an uninterrupted training, bit for bit."""
    config = make_config(**settings)
    stop_answers = iter([False] * batches + [True] * 1000)
    _, interrupted = train(
        config, on_checkpoint=save_to(tmp_path, config), should_stop=lambda: next(stop_answers)
    )
    loaded = checkpoints.load_checkpoint(tmp_path)
    network, resumed = train(config, loaded.checkpoint.snapshot)
    expected_network, expected = train(config)

    assert (False, "asked to stop") == (interrupted.is_completed, interrupted.stop_reason)
    assert {} == loaded.skipped
    assert_equal_weights(expected_network, network)
    assert history_without_seconds(expected) == history_without_seconds(resumed)
    assert (expected.best_epoch, expected.stop_reason) == (resumed.best_epoch, resumed.stop_reason)


def test_finished_training_is_not_continued(folder: Path) -> None:
    """Resuming from its last checkpoint gives the same weights and epochs."""
    config = make_config(epochs=2)
    expected, _ = train(config)
    network, result = train(config, checkpoints.load_checkpoint(folder).checkpoint.snapshot)

    assert_equal_weights(expected, network)
    assert 2 == len(result.history)


def test_resumed_training_keeps_the_number_of_threads(tmp_path: Path) -> None:
    """With another number of threads the last bits of sums would differ."""
    config = make_config(threads=None, epochs=1)
    snapshots: list[TrainingSnapshot] = []
    initial_threads = torch.get_num_threads()
    train(make_config(threads=3, epochs=1), on_checkpoint=snapshots.append)
    assert 3 == train(config, snapshots[0])[1].threads
    torch.set_num_threads(initial_threads)


def test_last_two_checkpoints_are_kept(folder: Path) -> None:
    """Older checkpoints and temporary files of killed processes are deleted."""
    assert ["00001-000000000", "00002-000000000"] == sorted(path.name[:15] for path in folder.iterdir())
    (folder / ".00003-000000000-x.safetensors.0123.tmp").write_bytes(b"half")
    train(make_config(epochs=1), on_checkpoint=save_to(folder, make_config(epochs=1)))
    assert 2 == len(list(folder.iterdir()))


def test_metadata_is_restored(tmp_path: Path) -> None:
    """Any JSON value is unchanged, and infinity, the initial best value of early stopping, too."""
    snapshots: list[TrainingSnapshot] = []
    train(make_config(epochs=1), on_checkpoint=snapshots.append)
    metadata = [{"step": 1, "values": {"val_loss": 0.1 + 0.2}}, float("inf"), "é"]
    checkpoints.save_checkpoint(
        tmp_path, Checkpoint(make_config(epochs=1), FINGERPRINT, snapshots[0], metadata)
    )
    assert metadata == checkpoints.load_checkpoint(tmp_path).checkpoint.metadata


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:-1]), "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty"])
def test_damaged_checkpoint_is_reported_and_previous_one_used(kind: str, folder: Path) -> None:
    """The report has the path of the damaged file; if both are damaged, an error reports both."""
    damaged = newest(folder)
    damage(damaged, kind)
    loaded = checkpoints.load_checkpoint(folder)
    (line,) = loaded.skipped.values()
    assert f"{damaged} is not what was written: its SHA-256 differs from its name" == line
    assert 1 == len(loaded.checkpoint.snapshot.scalars["history"])

    for path in folder.iterdir():
        damage(path, "empty")
    with pytest.raises(CorruptDataError, match=r"no checkpoint in .* can be used: .*SHA-256.*SHA-256"):
        checkpoints.load_checkpoint(folder)


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch"])
def test_pickle_is_never_loaded(
    write: Callable[[object], bytes] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle is rejected even if its file has the name of a checkpoint with the correct digest."""
    monkeypatch.chdir(tmp_path)
    if write:
        content = write(Canary())
    else:
        torch.save(Canary(), tmp_path / "file")
        content = (tmp_path / "file").read_bytes()
    name = f"00001-000000000-{hashlib.sha256(content).hexdigest()}.safetensors"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(CorruptDataError, match="is not a valid checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "run")
    assert not (tmp_path / "canary").exists()


def test_damaged_checkpoint_is_quarantined_and_not_counted(folder: Path) -> None:
    """The checkpoint in use is kept until there are two newer ones; the damaged file is kept, too."""
    config, damaged = make_config(epochs=2), newest(folder)
    damage(damaged, "truncated")
    loaded = checkpoints.load_checkpoint(folder)
    checkpoints.quarantine(loaded)
    names: list[list[str]] = []

    def save(snapshot: TrainingSnapshot) -> None:
        checkpoints.save_checkpoint(folder, Checkpoint(config, FINGERPRINT, snapshot))
        names.append([path.name[:15] for path in checkpoints.list_checkpoints(folder)])

    train(config, loaded.checkpoint.snapshot, on_checkpoint=save)
    assert [["00001-000000000", "00002-000000000"]] == names
    assert [damaged.with_suffix(".quarantined")] == list(folder.glob("*.quarantined"))


def test_folders_and_broken_links_are_ignored(folder: Path) -> None:
    """They have names of checkpoints or temporary files, and neither loading nor saving fails."""
    names = [f"0000{number}-000000000-{'0' * 64}.safetensors" for number in (8, 9)]
    (folder / names[0]).mkdir()
    (folder / names[1]).symlink_to("nowhere")
    (folder / ".x.tmp").mkdir()
    snapshot = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    assert 2 == len(snapshot.scalars["history"])
    checkpoints.save_checkpoint(folder, Checkpoint(make_config(epochs=2), FINGERPRINT, snapshot))


def test_newer_format_is_reported_and_older_checkpoint_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report has both format numbers."""
    snapshot = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    snapshot.scalars["history"] *= 2
    checkpoints.save_checkpoint(folder, Checkpoint(make_config(epochs=2), FINGERPRINT, snapshot))
    monkeypatch.undo()
    loaded = checkpoints.load_checkpoint(folder)
    (line,) = loaded.skipped.values()
    formats = f"got format {checkpoints.FORMAT + 1}, accepted: {checkpoints.FORMAT}"
    assert line.endswith(f"{formats}; a newer version of Relearn wrote it")
    assert 2 == len(loaded.checkpoint.snapshot.scalars["history"])


INVALID: dict[str, Callable[[TrainingSnapshot], TrainingSnapshot]] = {
    "tensor of another shape": lambda snapshot: replace(
        snapshot, tensors=snapshot.tensors | {"optimizer.0.momentum_buffer": torch.zeros(3, 3)}
    ),
    "NaN weights": lambda snapshot: replace(
        snapshot,
        tensors=snapshot.tensors | {"network.output.bias": torch.full((CLASSES,), float("nan"))},
    ),
    "no best weights": lambda snapshot: replace(
        snapshot,
        tensors={name: value for name, value in snapshot.tensors.items() if not name.startswith("best")},
    ),
    "invalid history": lambda snapshot: replace(snapshot, scalars=snapshot.scalars | {"history": 3}),
    "no scheduler": lambda snapshot: replace(snapshot, scalars=snapshot.scalars | {"lr_scheduler": None}),
}


@pytest.mark.parametrize("defect", INVALID)
def test_invalid_snapshot_is_rejected(defect: str, folder: Path) -> None:
    """One line reports it before the training, although the digest of the file is correct."""
    snapshot = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    with pytest.raises(CorruptDataError, match="the checkpoint "):
        train(make_config(epochs=2), INVALID[defect](snapshot))


@pytest.mark.parametrize("header", ["[]", "null", '{"format": 1}', '{"format": 1, "config": 3}'])
def test_invalid_header_is_rejected(header: str, tmp_path: Path) -> None:
    """The message has the path of the file."""
    content = safetensors.torch.save({"x": torch.zeros(1)}, {"relearn": header})
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / f"00001-000000000-{digest}.safetensors").write_bytes(content)
    with pytest.raises(CorruptDataError, match=rf"{digest}\.safetensors is not a valid checkpoint"):
        checkpoints.load_checkpoint(tmp_path)


def test_different_config_is_rejected(folder: Path) -> None:
    """The error lists each differing setting with both values."""
    checkpoint = checkpoints.load_checkpoint(folder).checkpoint
    checkpoints.check_compatible(checkpoint, make_config(epochs=2), FINGERPRINT)
    with pytest.raises(ConfigError) as raised:
        checkpoints.check_compatible(checkpoint, make_config(epochs=3, hidden_sizes=[8]), FINGERPRINT)
    assert (
        "hidden_sizes: got (8,), the checkpoint has (16,)",
        "epochs: got 3, the checkpoint has 2",
    ) == raised.value.problems


def test_different_data_is_rejected(folder: Path) -> None:
    """A checkpoint of other data cannot be resumed, since the shuffled order would have other images."""
    checkpoint = checkpoints.load_checkpoint(folder).checkpoint
    with pytest.raises(CorruptDataError, match="the data has changed since the checkpoint"):
        checkpoints.check_compatible(checkpoint, make_config(epochs=2), "0" * 64)


def test_folder_without_checkpoint_is_reported(tmp_path: Path) -> None:
    """This holds for a missing folder and for a folder with other files."""
    (tmp_path / "weights.pt").write_bytes(b"\x80")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match=f"no checkpoint in {folder}"):
            checkpoints.load_checkpoint(folder)


def test_unwritable_folder_is_reported_before_the_training(tmp_path: Path) -> None:
    """The message has its path, the reason and the required bytes."""
    (tmp_path / "run").write_text("a file")
    config, records = make_config(), list[EpochRecord]()
    with pytest.raises(
        InfrastructureError, match=r"checkpoint .*run.* cannot be written: .*; it needs [\d,]+ bytes"
    ):
        fit(config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, on_epoch=records.append,
            on_checkpoint=save_to(tmp_path / "run", config))  # fmt: skip
    assert [] == records


def test_folder_is_locked_by_one_process(tmp_path: Path) -> None:
    """A second process gets an error; the lock of a killed process is released."""
    code = (
        "import sys, time; from pathlib import Path; from relearn.model.training import checkpoints\n"
        "with checkpoints.lock_folder(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert b"locked\n" == holder.stdout.readline()
        with (
            pytest.raises(InfrastructureError, match="runs in another process"),
            checkpoints.lock_folder(tmp_path),
        ):
            pass
        assert checkpoints.is_locked(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert not checkpoints.is_locked(tmp_path)
    assert not checkpoints.is_locked(tmp_path / "nothing")
    with checkpoints.lock_folder(tmp_path):
        pass
