"""Alarms: events of Prefect that ask for a retraining, each at most once in a while."""

import json
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from pydantic import AwareDatetime, BaseModel

from relearn.flows.locks import locked
from relearn.model.errors import InfrastructureError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

DRIFT_EVENT, ACCURACY_EVENT = "relearn.drift", "relearn.accuracy"
LAST_EMITTED_FILE = "alarms.json"  # when each was last given
TIMEOUT_SECONDS = 30.0  # seconds for the lock; it is held for milliseconds


class Alert(BaseModel, frozen=True):
    """An event that was called for: why, when it was given last, and whether that was now."""

    event: str
    reason: str
    last_emitted: AwareDatetime
    emitted_now: bool


def resource_id(name: str) -> str:
    """What Prefect's events call a name."""
    return f"relearn.name.{name}"


def emit_alerts(
    home: Home,
    name: str,
    reason_by_event: Mapping[str, str],
    cooldown: timedelta,
    now: datetime,
    **payload: Any,
) -> tuple[Alert, ...]:
    """Give the alarm of each event in `reasons` that was not given within `cooldown` before `at`.

    The event concerns the `resource` of the name; `told` goes with its reason. Of several monitors at
    once one gives it. Raises `MachineError` where the lock is held for long.
    """
    folder = home.monitoring_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another monitor has been busy with {name} for {TIMEOUT_SECONDS:g} seconds"
    with locked(folder / ".lock", busy, TIMEOUT_SECONDS):
        return tuple(
            _emit_alert(
                folder / LAST_EMITTED_FILE, name, event, reason_by_event[event], cooldown, now, payload
            )
            for event in reason_by_event
        )


def _emit_alert(
    path: Path,
    name: str,
    event: str,
    reason: str,
    cooldown: timedelta,
    now: datetime,
    payload: Mapping[str, Any],
) -> Alert:
    last_emitted = load_last_emitted(path)
    previous = last_emitted.get(event)
    if previous and timedelta(0) <= now - previous < cooldown:  # a clock that was put back holds up nothing
        return Alert(event=event, reason=reason, last_emitted=previous, emitted_now=False)
    emitted = emit_event(
        event,
        resource={"prefect.resource.id": resource_id(name), "prefect.resource.name": name},
        payload={"name": name, "reason": reason, **payload},
    )
    if emitted is None or not _flush_events():
        raise InfrastructureError(f"the event {event} of {name} could not be given to Prefect")
    # After the event: a kill in between asks twice, where the other order would ask never.
    timestamps = {key: value.isoformat() for key, value in {**last_emitted, event: now}.items()}
    write_bytes_atomically(path, json.dumps(timestamps, indent=2).encode())
    return Alert(event=event, reason=reason, last_emitted=now, emitted_now=True)


def _flush_events() -> bool:
    """Whether Prefect has what was queued for it, within `PATIENCE`."""
    waiter = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    waiter.start()
    waiter.join(TIMEOUT_SECONDS)
    return not waiter.is_alive()


def load_last_emitted(path: Path) -> dict[str, datetime]:
    """When each event was given last; what cannot be read has not been."""
    try:
        return {
            event: datetime.fromisoformat(timestamp)
            for event, timestamp in json.loads(path.read_bytes()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
