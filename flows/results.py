"""What flows leave behind, small enough to hand from task to task."""

from pydantic import BaseModel

from relearn.model.evaluation.significance import PairedComparison
from relearn.serving.releases.ledger import GateOutcome

GATE_DECISION_TAG = "relearn.gate_decision"  # tag of a run: what the gate said of it last
EXAMPLE_IMAGE_FILENAME = "example.png"  # beside the releases of a name: a picture to try them with


class TrainResult(BaseModel, frozen=True):
    """One training: its run, how it went, and how right the network is (accuracies in 0–1)."""

    run_id: str
    url: str
    network: str
    parameter_count: int
    epochs: int
    best_epoch: int
    stop_reason: str
    val_loss: float
    val_accuracy: float
    metrics: dict[str, float]
    warnings: tuple[str, ...]
    training_seconds: float
    images_per_second: float


class GuardrailResult(BaseModel, frozen=True):
    """One guardrail: whether it holds, what the candidate shows, what the champion, what is accepted."""

    name: str
    passed: bool
    candidate: str
    champion: str = ""
    accepted: str

    def __str__(self) -> str:
        champion = f", the champion has {self.champion}" if self.champion else ""
        return f"{self.name}: got {self.candidate}{champion}, accepted: {self.accepted}"


class GateDecision(BaseModel, frozen=True):
    """PROMOTE, HOLD or REJECT, with every reason and number."""

    action: GateOutcome
    reasons: tuple[str, ...]
    checks: tuple[GuardrailResult, ...]
    comparisons: dict[str, PairedComparison] = {}


class ServedPrediction(BaseModel, frozen=True):
    """What a server said to one image."""

    label: str
    probability: float
    version: str


class SmokeTestResult(BaseModel, frozen=True):
    """What came of it: the first answer, and the median time of one (ms); else why it may not be served."""

    error: str | None = None
    first_prediction: ServedPrediction | None = None
    latency_ms: float = 0.0


class ReleaseResult(BaseModel, frozen=True):
    """What came of a candidate: the verdict, what is live now, and, where it was tried, how it answered.

    `version` is that of the candidate, None where it was never registered; `truth` is the right answer to
    the first image of the trial.
    """

    name: str
    run_id: str
    gate_decision: GateDecision
    live_version: str | None
    candidate_version: str | None = None
    smoke_test_result: SmokeTestResult | None = None
    expected_label: str = ""
    stage_seconds: dict[str, float] = {}

    @property
    def first_answer(self) -> str:
        """How the real server has answered; nothing where none was asked."""
        if self.smoke_test_result is None or self.smoke_test_result.first_prediction is None:
            return ""
        first = self.smoke_test_result.first_prediction
        return (
            f"The real server of version {first.version} was sent an image of '{self.expected_label}' and"
            f" said '{first.label}' with {first.probability:.1%}; an answer takes"
            f" {self.smoke_test_result.latency_ms:.1f} ms."
        )

    @property
    def headline(self) -> str:
        """The outcome in a line."""
        reasons = "; ".join(self.gate_decision.reasons)
        if self.gate_decision.action == "promote":
            return f"version {self.live_version} is live: {reasons}"
        champion_status = (
            f"version {self.live_version} stays live" if self.live_version else "nothing is live yet"
        )
        candidate_status = {"hold": "the candidate is held", "reject": "the candidate is rejected"}
        return f"{champion_status}, {candidate_status[self.gate_decision.action]}: {reasons}"


class RetrainResult(BaseModel, frozen=True):
    """One retraining: what was trained, what came of the best of it, and the time it took."""

    name: str
    url: str
    train_results: tuple[TrainResult, ...]
    best: TrainResult
    release_result: ReleaseResult
    stage_seconds: dict[str, float]
