"""Results of flows, small enough to pass between tasks."""

from pydantic import BaseModel

from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.serving.releases.ledger import GateOutcome

GATE_DECISION_TAG = "relearn.gate_decision"  # tag of a run: action of its last gate decision
EXAMPLE_IMAGE_FILENAME = "example.png"  # with the releases of a model: an image to try them with


class TrainResult(BaseModel, frozen=True):
    """Result of one training: its run, how it ended, speed and metrics (accuracies in 0–1)."""

    run_id: str
    url: str
    network: str
    parameter_count: int
    summary: str
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    metrics: dict[str, float]
    warnings: tuple[str, ...]
    training_seconds: float
    images_per_second: float


class GuardrailResult(BaseModel, frozen=True):
    """Result of one guardrail: values of candidate and champion, the loss with its interval, the limit."""

    name: str
    passed: bool
    candidate: str
    champion: str = ""
    loss: str = ""
    accepted: str

    def __str__(self) -> str:
        champion = f", the champion has {self.champion}" if self.champion else ""
        loss = f", a loss of {self.loss}" if self.loss else ""
        return f"{self.name}: got {self.candidate}{champion}{loss}, accepted: {self.accepted}"


class GateDecision(BaseModel, frozen=True):
    """Decision of the gate, PROMOTE, HOLD or REJECT, with every reason and number.

    `margin` is the loss since the baseline that a promotion accepts; 0 if the candidate is the new baseline.
    """

    action: GateOutcome
    reasons: tuple[str, ...]
    checks: tuple[GuardrailResult, ...]
    comparison: PairedComparison | None = None
    margin: float = 0.0


class ServedPrediction(BaseModel, frozen=True):
    """Prediction of a server for one image."""

    label: str
    probability: float
    version: str


class SmokeTestResult(BaseModel, frozen=True):
    """Result of a smoke test: first prediction and median latency (ms), or the error."""

    error: str | None = None
    first_prediction: ServedPrediction | None = None
    latency_ms: float = 0.0


class ReleaseResult(BaseModel, frozen=True):
    """Result of a release: gate decision, live version and smoke test.

    `candidate_version` is None if the candidate was not registered. `expected_label` is the label of the
    first image of the smoke test.
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
    def first_prediction_text(self) -> str:
        """First prediction of the smoke test in a sentence; "" without one."""
        if self.smoke_test_result is None or self.smoke_test_result.first_prediction is None:
            return ""
        first = self.smoke_test_result.first_prediction
        return (
            f"The server of version {first.version} classified an image of '{self.expected_label}' as"
            f" '{first.label}' (probability {first.probability:.1%}). Median latency:"
            f" {self.smoke_test_result.latency_ms:.1f} ms."
        )

    @property
    def summary(self) -> str:
        """The gate decision, the live version and the reasons, in one line."""
        return f"{self.outcome}: {'; '.join(self.gate_decision.reasons)}"

    @property
    def verdict(self) -> str:
        """Fate of the candidate: released, held or rejected."""
        return {"promote": "released", "hold": "held", "reject": "rejected"}[self.gate_decision.action]

    @property
    def outcome(self) -> str:
        """The live version, and what became of the candidate."""
        if self.gate_decision.action == "promote":
            return f"version {self.live_version} is live"
        champion_status = (
            f"version {self.live_version} stays live" if self.live_version else "no version is live yet"
        )
        return f"{champion_status}, the candidate is {self.verdict}"


class RetrainResult(BaseModel, frozen=True):
    """Result of a retraining: all trainings, release of the best one, seconds by stage."""

    name: str
    url: str
    train_results: tuple[TrainResult, ...]
    best: TrainResult
    release_result: ReleaseResult
    stage_seconds: dict[str, float]
