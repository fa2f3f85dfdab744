"""A training that was cut off anywhere goes on to the same weights; nothing damaged is gone on from."""

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


def labelled(count: int, seed: int) -> LabelledImages:
    draw = np.random.default_rng(seed)
    return LabelledImages(
        draw.integers(0, 256, (count, *SHAPE), dtype=np.uint8), draw.integers(0, CLASSES, count)
    )


SPLITS = Splits(labelled(200, 0), labelled(60, 1), labelled(60, 2))


def settings(**changed: object) -> TrainConfig:
    return TrainConfig.parse(
        {"hidden_sizes": [16], "batch_size": 32, "threads": 1, "epochs": 4, "dropout": 0.3, **changed}
    )


def train(
    config: TrainConfig,
    start: TrainingSnapshot | None = None,
    save: Callable[[TrainingSnapshot], None] = lambda state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[nn.Module, FitResult]:
    network = build_network(config, SHAPE, CLASSES)
    return network, fit(
        config, network, SPLITS, CLASSES, initial_snapshot=start, on_checkpoint=save, should_stop=should_stop
    )


def saver(folder: Path, config: TrainConfig) -> Callable[[TrainingSnapshot], None]:
    return lambda state: void(checkpoints.save_checkpoint(folder, Checkpoint(config, FINGERPRINT, state)))


def void(_: object) -> None: ...


def assert_equal_weights(expected: nn.Module, got: nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(value, got.state_dict()[name]), name


def measured(result: FitResult) -> list[tuple[float, ...]]:
    """The history without its times."""
    return [
        (one.epoch, one.train_loss, one.train_accuracy, one.val_loss, one.val_accuracy, one.learning_rate)
        for one in result.history
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of a training of two epochs."""
    config = settings(epochs=2)
    train(config, save=saver(tmp_path / "run", config))
    return tmp_path / "run"


def newest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"network": "cnn"},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "lr_schedule": "cosine"},
        {"optimizer": "adagrad", "learning_rate": 0.01, "lr_schedule": "constant"},
        {"batch_norm": True, "monitor": "val_accuracy"},
        {"augmentation_strength": 0.5},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())) or "default",
)
@pytest.mark.parametrize("batches", [1, 7, 12, 20])
def test_a_training_cut_at_any_batch_ends_with_the_same_weights(
    changed: dict[str, object], batches: int, tmp_path: Path
) -> None:
    """Weights, history and reason are those of the training that was never cut, to the last bit."""
    config = settings(**changed)
    asked = iter([False] * batches + [True] * 1000)
    cut = train(config, save=saver(tmp_path, config), should_stop=lambda: next(asked))[1]
    found = checkpoints.load_checkpoint(tmp_path)
    network, resumed = train(config, start=found.checkpoint.snapshot)
    expected_network, expected = train(config)

    assert (False, "asked to stop") == (cut.is_completed, cut.stop_reason)
    assert {} == found.skipped
    assert_equal_weights(expected_network, network)
    assert measured(expected) == measured(resumed)
    assert (expected.best_epoch, expected.stop_reason) == (resumed.best_epoch, resumed.stop_reason)


def test_a_finished_training_is_not_trained_further(folder: Path) -> None:
    """Going on from its last checkpoint gives what it gave."""
    config = settings(epochs=2)
    expected, _ = train(config)
    network, result = train(config, start=checkpoints.load_checkpoint(folder).checkpoint.snapshot)

    assert_equal_weights(expected, network)
    assert 2 == len(result.history)


def test_the_number_of_threads_is_that_of_the_start(tmp_path: Path) -> None:
    """Sums over another number of threads differ in their last bits."""
    config = settings(threads=None, epochs=1)
    states: list[TrainingSnapshot] = []
    before = torch.get_num_threads()
    train(settings(threads=3, epochs=1), save=states.append)
    assert 3 == train(config, start=states[0])[1].threads
    torch.set_num_threads(before)


def test_the_last_two_are_kept(folder: Path) -> None:
    """And nothing else, whatever a killed process left."""
    assert ["00001-000000000", "00002-000000000"] == sorted(path.name[:15] for path in folder.iterdir())
    (folder / ".00003-000000000-x.safetensors.0123.tmp").write_bytes(b"half")
    train(settings(epochs=1), save=saver(folder, settings(epochs=1)))
    assert 2 == len(list(folder.iterdir()))


def test_notes_come_back(tmp_path: Path) -> None:
    """Whatever JSON holds, as it was given; infinity too, which stands for "no best yet"."""
    states: list[TrainingSnapshot] = []
    train(settings(epochs=1), save=states.append)
    notes = [{"step": 1, "values": {"val_loss": 0.1 + 0.2}}, float("inf"), "é"]
    checkpoints.save_checkpoint(tmp_path, Checkpoint(settings(epochs=1), FINGERPRINT, states[0], notes))
    assert notes == checkpoints.load_checkpoint(tmp_path).checkpoint.metadata


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:-1]), "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(how: str, folder: Path) -> None:
    """That is said, with the name of the damaged one; where both are damaged, nothing is gone on from."""
    broken = newest(folder)
    damaged(broken, how)
    found = checkpoints.load_checkpoint(folder)
    (line,) = found.skipped.values()
    assert f"{broken} is not what was written: its SHA-256 differs from its name" == line
    assert 1 == len(found.checkpoint.snapshot.scalars["history"])

    for path in folder.iterdir():
        damaged(path, "empty")
    with pytest.raises(CorruptDataError, match=r"no checkpoint in .* can be used: .*SHA-256.*SHA-256"):
        checkpoints.load_checkpoint(folder)


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch"])
def test_a_pickle_is_never_opened(
    write: Callable[[object], bytes] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even under the name of a checkpoint, with its own digest in it."""
    monkeypatch.chdir(tmp_path)
    if write:
        content = write(Canary())
    else:
        torch.save(Canary(), tmp_path / "file")
        content = (tmp_path / "file").read_bytes()
    name = f"00001-000000000-{hashlib.sha256(content).hexdigest()}.safetensors"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(CorruptDataError, match="is no checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "run")
    assert not (tmp_path / "canary").exists()


def test_what_was_refused_is_set_aside_and_costs_no_checkpoint(folder: Path) -> None:
    """The one gone on from stays until there are two newer ones; what was refused is there for who asks."""
    config, broken = settings(epochs=2), newest(folder)
    damaged(broken, "truncated")
    found = checkpoints.load_checkpoint(folder)
    checkpoints.quarantine(found)
    places: list[list[str]] = []

    def save(state: TrainingSnapshot) -> None:
        checkpoints.save_checkpoint(folder, Checkpoint(config, FINGERPRINT, state))
        places.append([path.name[:15] for path in checkpoints.list_checkpoints(folder)])

    train(config, start=found.checkpoint.snapshot, save=save)
    assert [["00001-000000000", "00002-000000000"]] == places
    assert [broken.with_suffix(".quarantined")] == list(folder.glob("*.quarantined"))


def test_what_is_no_file_does_not_stand_in_the_way(folder: Path) -> None:
    """A folder or a dead link with the name of a checkpoint, or of a temporary file."""
    names = [f"0000{number}-000000000-{'0' * 64}.safetensors" for number in (8, 9)]
    (folder / names[0]).mkdir()
    (folder / names[1]).symlink_to("nowhere")
    (folder / ".x.tmp").mkdir()
    state = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    assert 2 == len(state.scalars["history"])
    checkpoints.save_checkpoint(folder, Checkpoint(settings(epochs=2), FINGERPRINT, state))


def test_a_newer_format_is_not_guessed_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers are told; an older checkpoint beside it is taken instead."""
    state = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    monkeypatch.setattr(checkpoints, "FORMAT", 3)
    state.scalars["history"] *= 2
    checkpoints.save_checkpoint(folder, Checkpoint(settings(epochs=2), FINGERPRINT, state))
    monkeypatch.undo()
    found = checkpoints.load_checkpoint(folder)
    (line,) = found.skipped.values()
    assert line.endswith("got format 3, accepted: 2; a newer Relearn wrote it")
    assert 2 == len(found.checkpoint.snapshot.scalars["history"])


SPOILED: dict[str, Callable[[TrainingSnapshot], TrainingSnapshot]] = {
    "a tensor of another shape": lambda state: replace(
        state, tensors=state.tensors | {"optimizer.0.momentum_buffer": torch.zeros(3, 3)}
    ),
    "weights that are no numbers": lambda state: replace(
        state,
        tensors=state.tensors | {"network.output.bias": torch.full((CLASSES,), float("nan"))},
    ),
    "no best weights": lambda state: replace(
        state, tensors={name: value for name, value in state.tensors.items() if not name.startswith("best")}
    ),
    "another history": lambda state: replace(state, scalars=state.scalars | {"history": 3}),
    "no rate": lambda state: replace(state, scalars=state.scalars | {"lr_scheduler": None}),
}


@pytest.mark.parametrize("how", SPOILED)
def test_contents_that_do_not_fit_are_refused(how: str, folder: Path) -> None:
    """Though the digest is right: by one line, before anything is computed with them."""
    state = checkpoints.load_checkpoint(folder).checkpoint.snapshot
    with pytest.raises(CorruptDataError, match="the checkpoint "):
        train(settings(epochs=2), start=SPOILED[how](state))


@pytest.mark.parametrize("header", ["[]", "null", '{"format": 1}', '{"format": 1, "config": 3}'])
def test_a_header_of_another_form_is_refused(header: str, tmp_path: Path) -> None:
    """By one line with the name of the file."""
    content = safetensors.torch.save({"x": torch.zeros(1)}, {"relearn": header})
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / f"00001-000000000-{digest}.safetensors").write_bytes(content)
    with pytest.raises(CorruptDataError, match="is no checkpoint"):
        checkpoints.load_checkpoint(tmp_path)


def test_another_config_is_refused_with_what_differs(folder: Path) -> None:
    """Each setting with both values."""
    checkpoint = checkpoints.load_checkpoint(folder).checkpoint
    checkpoints.check_compatible(checkpoint, settings(epochs=2), FINGERPRINT)
    with pytest.raises(ConfigError) as refused:
        checkpoints.check_compatible(checkpoint, settings(epochs=3, hidden_sizes=[8]), FINGERPRINT)
    assert (
        "hidden_sizes: got (8,), the checkpoint has (16,)",
        "epochs: got 3, the checkpoint has 2",
    ) == refused.value.problems


def test_other_data_is_refused(folder: Path) -> None:
    """The order of the images would mean others."""
    checkpoint = checkpoints.load_checkpoint(folder).checkpoint
    with pytest.raises(CorruptDataError, match="the data has changed since the checkpoint"):
        checkpoints.check_compatible(checkpoint, settings(epochs=2), "0" * 64)


def test_where_there_is_none_that_is_said(tmp_path: Path) -> None:
    """A folder that is not there, or holds other files."""
    (tmp_path / "weights.pt").write_bytes(b"\x80")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match=f"no checkpoint in {folder}"):
            checkpoints.load_checkpoint(folder)


def test_a_folder_that_takes_nothing_is_heard_of_before_any_work(tmp_path: Path) -> None:
    """With its name, the reason and the bytes that are needed."""
    (tmp_path / "run").write_text("a file")
    config, heard = settings(), list[EpochRecord]()
    with pytest.raises(
        InfrastructureError, match=r"checkpoint .*run.* cannot be written: .*; it takes [\d,]+ bytes"
    ):
        fit(config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, on_epoch=heard.append,
            on_checkpoint=saver(tmp_path / "run", config))  # fmt: skip
    assert [] == heard


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second one is told; a killed one leaves no lock behind."""
    code = (
        "import sys, time; from pathlib import Path; from relearn.model.training import checkpoints\n"
        "with checkpoints.lock_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert b"held\n" == holder.stdout.readline()
        with (
            pytest.raises(InfrastructureError, match="goes on in another process"),
            checkpoints.lock_folder(tmp_path),
        ):
            pass
        assert checkpoints.is_locked(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert not checkpoints.is_locked(tmp_path)
    assert not checkpoints.is_locked(tmp_path / "nothing")
    with checkpoints.lock_folder(tmp_path):
        pass
