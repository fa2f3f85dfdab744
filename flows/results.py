"""What flows leave behind, small enough to hand from task to task."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Trained(BaseModel):
    """One training: its run, how it went, and how right the network is (accuracies in 0–1)."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    run_name: str
    url: str
    network: str
    parameters: int
    epochs: int
    best_epoch: int
    stop_reason: str
    val_loss: float
    val_accuracy: float
    metrics: dict[str, float]
    warnings: tuple[str, ...]
    seconds: float
    images_per_second: float


class Answer(BaseModel):
    """What the real server said to one test image: the label it gave, and the true one."""

    model_config = ConfigDict(frozen=True)

    truth: str
    label: str
    probability: float
    version: str
    milliseconds: float


class Retrained(BaseModel):
    """One retraining: what was trained, which of it was released, its first answer, and the time it took."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    trained: tuple[Trained, ...]
    best: Trained
    version: str
    answer: Answer
    example: Path
    seconds: dict[str, float]
