"""What `/info` tells of a classifier, and which settings a client meets as limits."""

from datetime import datetime
from typing import Any

from relearn.model.inference.model_card import ModelCard
from relearn.serving.config import ServeConfig
from relearn.serving.runtime.hot_reload import ServedModel

LIMIT_SETTINGS = ("max_body_bytes", "max_images", "max_concurrency", "timeout_seconds")


def build_info_response(
    served_model: ServedModel | None, serving_since: datetime, config: ServeConfig
) -> dict[str, Any]:
    """What is live and since when, and the limits."""
    return {
        "version": served_model.version if served_model else None,
        "serving_since": serving_since.isoformat(timespec="milliseconds") if served_model else None,
        "classifier": describe_classifier(served_model.classifier.card) if served_model else None,
        "limits": {name: getattr(config, name) for name in LIMIT_SETTINGS},
    }


def describe_classifier(card: ModelCard) -> dict[str, Any]:
    """What a client may want to know of a classifier."""
    return {
        "dataset": card.dataset,
        "network": card.config.network,
        "parameters": card.parameters,
        "shape": card.shape,
        "style": card.style,
        "classes": card.classes,
        "metrics": card.metrics,
        "fingerprint": card.fingerprint,
        "torch": card.torch,
    }
