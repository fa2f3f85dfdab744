"""What flows leave behind, small enough to hand from task to task."""

from pydantic import BaseModel

from relearn.model.significance import Comparison
from relearn.serving.ledger import Outcome

VERDICT = "relearn.verdict"  # tag of a run: what the gate said of it last
EXAMPLE = "example.png"  # beside the releases of a name: a picture to try them with


class Trained(BaseModel, frozen=True):
    """One training: its run, how it went, and how right the network is (accuracies in 0–1)."""

    run_id: str
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


class Check(BaseModel, frozen=True):
    """One guardrail: whether it holds, what the candidate shows, what the champion, what is accepted."""

    name: str
    passed: bool
    candidate: str
    champion: str = ""
    accepted: str

    def __str__(self) -> str:
        champion = f", the champion has {self.champion}" if self.champion else ""
        return f"{self.name}: got {self.candidate}{champion}, accepted: {self.accepted}"


class Verdict(BaseModel, frozen=True):
    """PROMOTE, HOLD or REJECT, with every reason and number."""

    action: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    comparisons: dict[str, Comparison] = {}


class Answer(BaseModel, frozen=True):
    """What a server said to one image."""

    label: str
    probability: float
    version: str


class Trial(BaseModel, frozen=True):
    """What came of it: the first answer, and the median time of one (ms); else why it may not be served."""

    refused: str | None = None
    first: Answer | None = None
    milliseconds: float = 0.0


class Released(BaseModel, frozen=True):
    """What came of a candidate: the verdict, what is live now, and, where it was tried, how it answered.

    `version` is that of the candidate, None where it was never registered; `truth` is the right answer to
    the first image of the trial.
    """

    name: str
    run_id: str
    verdict: Verdict
    live: str | None
    version: str | None = None
    trial: Trial | None = None
    truth: str = ""
    seconds: dict[str, float] = {}

    @property
    def first_answer(self) -> str:
        """How the real server has answered; nothing where none was asked."""
        if self.trial is None or self.trial.first is None:
            return ""
        first = self.trial.first
        return (
            f"The real server of version {first.version} was sent an image of '{self.truth}' and said "
            f"'{first.label}' with {first.probability:.1%}; an answer takes {self.trial.milliseconds:.1f} ms."
        )

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        why = "; ".join(self.verdict.reasons)
        if self.verdict.action == "promote":
            return f"version {self.live} is live: {why}"
        stays = f"version {self.live} stays live" if self.live else "nothing is live yet"
        told = {"hold": "the candidate is held", "reject": "the candidate is rejected"}
        return f"{stays}, {told[self.verdict.action]}: {why}"


class Retrained(BaseModel, frozen=True):
    """One retraining: what was trained, what came of the best of it, and the time it took."""

    name: str
    url: str
    trained: tuple[Trained, ...]
    best: Trained
    released: Released
    seconds: dict[str, float]
