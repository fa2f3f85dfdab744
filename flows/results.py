"""What flows leave behind, small enough to hand from task to task."""

from pydantic import BaseModel, ConfigDict

from relearn.model.significance import Comparison
from relearn.serving.ledger import Outcome

VERDICT = "relearn.verdict"  # tag of a run: what the gate said of it last
EXAMPLE = "example.png"  # beside the releases of a name: a picture to try them with


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


class Check(BaseModel):
    """One guardrail: whether it holds, what the candidate shows, what the champion, what is accepted."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    candidate: str
    champion: str = ""
    accepted: str

    def __str__(self) -> str:
        champion = f", the champion has {self.champion}" if self.champion else ""
        return f"{self.name}: got {self.candidate}{champion}, accepted: {self.accepted}"


class Verdict(BaseModel):
    """PROMOTE, HOLD or REJECT, with every reason and number."""

    model_config = ConfigDict(frozen=True)

    action: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    comparisons: dict[str, Comparison] = {}


class Answer(BaseModel):
    """What a server said to one image."""

    model_config = ConfigDict(frozen=True)

    label: str
    probability: float
    version: str


class Trial(BaseModel):
    """What came of it: the first answer, and the median time of one (ms); else why it may not be served."""

    model_config = ConfigDict(frozen=True)

    refused: str | None = None
    first: Answer | None = None
    milliseconds: float = 0.0


class Released(BaseModel):
    """What came of a candidate: the verdict, what is live now, and, where it was tried, how it answered.

    `version` is that of the candidate, None where it was never registered; `truth` is the right answer to
    the first image of the trial.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    run_id: str
    verdict: Verdict
    live: str | None
    version: str | None = None
    trial: Trial | None = None
    truth: str = ""
    seconds: dict[str, float] = {}

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        why = "; ".join(self.verdict.reasons)
        if self.verdict.action == "promote":
            return f"version {self.live} is live: {why}"
        stays = f"version {self.live} stays live" if self.live else "nothing is live yet"
        told = {"hold": "the candidate is held", "reject": "the candidate is rejected"}
        return f"{stays}, {told[self.verdict.action]}: {why}"


class Retrained(BaseModel):
    """One retraining: what was trained, what came of the best of it, and the time it took."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    trained: tuple[Trained, ...]
    best: Trained
    released: Released
    seconds: dict[str, float]
