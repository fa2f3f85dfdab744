"""Every setting of gate and monitor, written once: type, default, range and one sentence of help."""

from typing import Literal

from pydantic import BaseModel, Field

from relearn.model.config import TrainConfig
from relearn.serving.config import ServeConfig


class PromotionConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What a candidate has to show before it is served."""

    promotion_rule: Literal["better", "non_inferior"] = Field(
        "better", description="better than the champion beyond chance, or only not worse by accuracy_margin."
    )
    significance: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="p-value of the paired test below which a difference is none of chance.",
    )
    min_accuracy: float = Field(0.0, ge=0, le=1, description="Lowest accuracy on the reference images.")
    accuracy_margin: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Largest loss on the reference, at the low end of the interval, for non_inferior.",
    )
    recall_margin: float = Field(
        0.02, ge=0, le=1, description="Largest loss of recall in any one class, beyond chance."
    )
    calibration_margin: float = Field(
        0.02, ge=0, le=1, description="Largest growth of the expected calibration error."
    )
    robustness_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest loss of accuracy on images changed in any one way, beyond chance.",
    )
    latency_factor: float = Field(
        10.0, ge=1, le=1_000, description="Largest growth of the time that one image takes."
    )
    size_factor: float = Field(10.0, ge=1, le=1_000, description="Largest growth of the weights in bytes.")
    manual_approval: bool = Field(False, description="Wait for a yes in the Prefect page before the switch.")
    approval_timeout_minutes: float = Field(
        60.0, gt=0, le=10_080, description="Minutes to wait for that yes; then the champion stays."
    )


class MonitorConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """What is looked at of the answers, and when a retraining is asked for."""

    window_hours: float = Field(
        24.0, gt=0, le=8_760, description="Hours of answers that are looked at, up to now."
    )
    min_predictions: int = Field(
        200, ge=20, le=1_000_000, description="Fewest answers that drift is tested on; less tell nothing."
    )
    drift_significance: float = Field(
        0.0001,
        gt=0,
        le=0.5,
        description="p-value, corrected for all measures, below which a difference is none of chance.",
    )
    min_effect_size: float = Field(
        0.1, ge=0, le=1, description="Share of the images that have to differ at least; less is no drift."
    )
    low_confidence: float = Field(
        0.5, gt=0, le=1, description="Probability of the answer below which its confidence is low."
    )
    min_live_accuracy: float = Field(
        0.8, ge=0, le=1, description="Live accuracy whose whole interval has to lie below for an alarm."
    )
    min_labels: int = Field(
        30, ge=1, le=1_000_000, description="Fewest told truths that the live accuracy is judged by."
    )
    cooldown_hours: float = Field(
        24.0, ge=0, le=8_760, description="Hours after an alarm in which the same one is not given again."
    )


class Settings(ServeConfig, MonitorConfig, PromotionConfig, TrainConfig):
    """All settings in one table: of training, gate, monitor and server."""
