"""What `/info` tells of a classifier, and which settings a client meets as limits."""

from typing import Any

from model.classifier import Card

LIMITS = (
    "max_body_bytes",
    "max_images",
    "max_in_progress",
    "timeout",
)  # of the settings, as a client meets them


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
