"""Settings of gate and monitor: type, default, range and one sentence of help for each."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from relearn.model.config import PromotionMetric, TrainConfig
from relearn.serving.config import ServeConfig


class PromotionConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Conditions on which a candidate becomes the champion."""

    promotion_rule: Literal["better", "non_inferior", "more_data"] = Field(
        "more_data",
        description="better: significantly better; non_inferior: or at most non_inferiority_margin worse;"
        " more_data: or not visibly worse, after learning from the champion's data and more.",
    )
    promotion_metric: PromotionMetric = Field(
        "accuracy", description="Metric by which candidate and champion are compared."
    )
    significance: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Significance level for all candidates that are compared with one champion.",
    )
    min_accuracy: float = Field(0.0, ge=0, le=1, description="Minimum accuracy on the reference set.")
    non_inferiority_margin: float = Field(
        0.005,
        ge=0,
        le=1,
        description="non_inferior, more_data: maximum loss of the promotion metric, at the lower end of the"
        " 95 % interval; with more_data the smallest visible loss, if that is larger.",
    )
    recall_margin: float = Field(
        0.02, ge=0, le=1, description="Maximum significant loss of recall in any class."
    )
    robustness_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Maximum significant loss of accuracy under any corruption.",
    )
    log_loss_margin: float = Field(
        0.1, ge=0, le=10, description="Maximum significant increase of the log loss in nats."
    )
    new_class_recall: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Minimum recall of a class that the live version lacks, at the lower end of its 95 %"
        " interval.",
    )
    allow_removed_classes: bool = Field(
        False, description="Accept a candidate that lacks classes of the live version."
    )
    renamed_classes: tuple[Annotated[str, Field(pattern=r"^[^=]+=[^=]+$")], ...] = Field(
        (),
        examples=["OLD=NEW"],
        description="Classes of the live version that have another name now, each as OLD=NEW.",
    )
    max_latency_ms: float | None = Field(
        None, gt=0, le=60_000, description="Maximum time of one prediction in milliseconds. Default: any."
    )
    max_megabytes: float | None = Field(
        None, gt=0, le=100_000, description="Maximum size of the weights in megabytes. Default: any."
    )
    manual_approval: bool = Field(False, description="Wait for approval in the Prefect UI before promoting.")
    approval_timeout_minutes: float = Field(
        60.0, gt=0, le=10_080, description="Minutes to wait for approval; then the candidate is held."
    )


class MonitorConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Window of predictions that the monitor analyzes, and thresholds of its alerts."""

    window_hours: float = Field(
        24.0, gt=0, le=8_760, description="Length of the analyzed window in hours, up to now."
    )
    min_predictions: int = Field(
        200, ge=20, le=1_000_000, description="Minimum number of predictions for a drift test."
    )
    drift_significance: float = Field(
        0.0001,
        gt=0,
        le=0.5,
        description="Significance level of the drift tests, Holm-corrected.",
    )
    min_effect_size: float = Field(
        0.1, ge=0, le=1, description="Minimum effect size of drift: fraction of images that differ."
    )
    low_confidence: float = Field(
        0.5, gt=0, le=1, description="Predictions below this probability count as low confidence."
    )
    max_accuracy_drop: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Alert if live accuracy is further below that on the reference images, beyond chance.",
    )
    min_labels: int = Field(
        30, ge=1, le=1_000_000, description="Minimum number of labeled samples for an alert of live accuracy."
    )
    cooldown_hours: float = Field(
        24.0, ge=0, le=8_760, description="Hours before the same alert is repeated."
    )


class Settings(ServeConfig, MonitorConfig, PromotionConfig, TrainConfig):
    """All settings: training, gate, monitor and server."""
