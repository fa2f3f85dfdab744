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
from relearn.model import atomic
from relearn.model.errors import MachineError
from relearn.model.home import Home

DRIFT, ACCURACY = "relearn.drift", "relearn.accuracy"
FILE = "alarms.json"  # when each was last given
PATIENCE = 30.0  # seconds for the lock; it is held for milliseconds


class Alarm(BaseModel, frozen=True):
    """An event that was called for: why, when it was given last, and whether that was now."""

    event: str
    reason: str
    given: AwareDatetime
    new: bool


def resource(name: str) -> str:
    """What Prefect's events call a name."""
    return f"relearn.name.{name}"


def give(
    home: Home, name: str, reasons: Mapping[str, str], cooldown: timedelta, at: datetime, **told: Any
) -> tuple[Alarm, ...]:
    """Give the alarm of each event in `reasons` that was not given within `cooldown` before `at`.

    The event concerns the `resource` of the name; `told` goes with its reason. Of several monitors at
    once one gives it. Raises `MachineError` where the lock is held for long.
    """
    folder = home.watch(name)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another monitor has been busy with {name} for {PATIENCE:g} seconds"
    with locked(folder / ".lock", busy, PATIENCE):
        return tuple(
            _give(folder / FILE, name, event, reasons[event], cooldown, at, told) for event in reasons
        )


def _give(
    path: Path,
    name: str,
    event: str,
    reason: str,
    cooldown: timedelta,
    at: datetime,
    told: Mapping[str, Any],
) -> Alarm:
    given = last(path)
    before = given.get(event)
    if before and timedelta(0) <= at - before < cooldown:  # a clock that was put back holds up nothing
        return Alarm(event=event, reason=reason, given=before, new=False)
    emitted = emit_event(
        event,
        resource={"prefect.resource.id": resource(name), "prefect.resource.name": name},
        payload={"name": name, "reason": reason, **told},
    )
    if emitted is None or not _is_sent():
        raise MachineError(f"the event {event} of {name} could not be given to Prefect")
    # After the event: a kill in between asks twice, where the other order would ask never.
    when = {key: value.isoformat() for key, value in {**given, event: at}.items()}
    atomic.write_bytes(path, json.dumps(when, indent=2).encode())
    return Alarm(event=event, reason=reason, given=at, new=True)


def _is_sent() -> bool:
    """Whether Prefect has what was queued for it, within `PATIENCE`."""
    waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
    waiting.start()
    waiting.join(PATIENCE)
    return not waiting.is_alive()


def last(path: Path) -> dict[str, datetime]:
    """When each event was given last; what cannot be read has not been."""
    try:
        return {event: datetime.fromisoformat(at) for event, at in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
