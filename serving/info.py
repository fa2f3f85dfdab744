"""What `/info` tells of a classifier, and which settings a client meets as limits."""

from datetime import datetime
from typing import Any

from relearn.model.classifier import Card
from relearn.serving.live import Live
from relearn.serving.settings import ServeConfig

LIMITS = ("max_body_bytes", "max_images", "max_in_progress", "timeout")


def tell(live: Live | None, since: datetime, config: ServeConfig) -> dict[str, Any]:
    """What is live and since when, and the limits."""
    return {
        "version": live.version if live else None,
        "since": since.isoformat(timespec="milliseconds") if live else None,
        "classifier": classifier(live.classifier.card) if live else None,
        "limits": {name: getattr(config, name) for name in LIMITS},
    }


def classifier(card: Card) -> dict[str, Any]:
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
