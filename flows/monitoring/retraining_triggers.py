"""Triggers of a retraining: Prefect events for drift and low accuracy, each at most once per cooldown.

The alerts that page people are others: `infra/monitoring/alerts.yml`.
"""

import json
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.events.worker import EventsWorker
from pydantic import AwareDatetime, BaseModel

from relearn.flows.orchestration.events import emit
from relearn.model.errors import InfrastructureError
from relearn.model.file_lock import locked
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

LAST_EMITTED_FILE = "alarms.json"  # the time at which each event was last emitted
TIMEOUT_SECONDS = 30.0  # for the lock, which is held for milliseconds, and for Prefect to take the event


class Alert(BaseModel, frozen=True):
    """A due event that triggers a retraining: its reason, and when it was last emitted.

    `emitted_now` is False if the cooldown since then has not ended.
    """

    event: str
    reason: str
    last_emitted: AwareDatetime
    emitted_now: bool


def emit_alerts(
    home: Home,
    name: str,
    reason_by_event: Mapping[str, str],
    cooldown: timedelta,
    now: datetime,
    **payload: Any,
) -> tuple[Alert, ...]:
    """Emit each event of `reason_by_event` that was not emitted within `cooldown` before `now`.

    The event has the resource of `name`, its reason, and `payload`. If several monitors run at once, one of
    them emits it. Raises `InfrastructureError` if the lock is held for longer than `TIMEOUT_SECONDS`, or
    Prefect does not take the event.
    """
    folder = home.monitoring_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another monitor of {name} has held its lock for {TIMEOUT_SECONDS:g} seconds"
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
    if previous and timedelta(0) <= now - previous < cooldown:  # negative if the clock was set back
        return Alert(event=event, reason=reason, last_emitted=previous, emitted_now=False)
    if emit(event, name, reason, **payload) is None or not _flush_events():
        raise InfrastructureError(f"the event {event} of {name} could not be sent to Prefect")
    # After the event: a kill in between emits it twice; in the other order it would never be emitted.
    timestamps = {key: value.isoformat() for key, value in {**last_emitted, event: now}.items()}
    write_bytes_atomically(path, json.dumps(timestamps, indent=2).encode())
    return Alert(event=event, reason=reason, last_emitted=now, emitted_now=True)


def _flush_events() -> bool:
    """Wait until all queued events are sent; return False if that takes longer than `TIMEOUT_SECONDS`."""
    flush_thread = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    flush_thread.start()
    flush_thread.join(TIMEOUT_SECONDS)
    return not flush_thread.is_alive()


def load_last_emitted(path: Path) -> dict[str, datetime]:
    """Return when each event was last emitted; empty for a missing or invalid file."""
    try:
        return {
            event: datetime.fromisoformat(timestamp)
            for event, timestamp in json.loads(path.read_bytes()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
