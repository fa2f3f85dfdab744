"""Prefect events that the flows emit: what became of a candidate, drift, low accuracy.

Automations react to them: a retraining, a message to people.
"""

from typing import Any

from prefect.events import emit_event
from prefect.events.schemas.events import Event

RELEASE_EVENT = "relearn.release"  # a candidate was released, held or rejected
DRIFT_EVENT, ACCURACY_EVENT = "relearn.drift", "relearn.accuracy"


def resource_id(name: str) -> str:
    """Return the resource id of a model name in Prefect's events."""
    return f"relearn.name.{name}"


def emit(event: str, name: str, reason: str, **payload: Any) -> Event | None:
    """Emit an event about model `name` with its reason in words; None if Prefect takes no events."""
    resource = {"prefect.resource.id": resource_id(name), "prefect.resource.name": name}
    return emit_event(event, resource, payload={"name": name, "reason": reason, **payload})
