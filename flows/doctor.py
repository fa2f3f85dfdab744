"""Every seam looked at: what is well, what is not, and how to mend it. Nothing is changed by looking.

A check is a function of `relearn.flows.seams`: it takes the home and yields one or several findings.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from relearn.flows import environment
from relearn.flows.patience import within
from relearn.model.errors import IntegrityError, MachineError, RelearnError
from relearn.model.home import Home

State = Literal["well", "away", "warning", "fails"]
Check = Callable[[Home], Iterator["Found"]]

LIMIT = 5.0  # seconds that a check is given; the slowest, loading a release, takes 0.3
SEAMS = {
    "machine": ("versions", "home", "disk", "limits", "loopback", "ports", "keys"),
    "learning": ("device",),
    "runs": ("store", "experiments", "artifacts", "lost", "aliases"),
    "schedule": ("settings", "database", "server", "runner", "rule", "due", "stuck"),
    "releases": ("ledger", "pointer", "live", "servers"),
}
GATES = ("store", "server")  # whether there is anybody to ask: where not, the rest of the seam is left out


@dataclass(frozen=True)
class Found:
    """What one check found, `about` which name, server or port; `mend` says what to do where it is not well.

    `away` is what does not run, or is not there yet: no fault. `check` and `seam` are filled in by `examine`.
    """

    state: State
    told: str
    mend: str = ""
    about: str = ""
    exit_code: int = MachineError.exit_code
    check: str = ""
    seam: str = ""


def well(told: str, about: str = "") -> Found:
    return Found("well", told, about=about)


def away(told: str, about: str = "") -> Found:
    return Found("away", told, about=about)


def warning(told: str, mend: str, about: str = "") -> Found:
    return Found("warning", told, mend, about)


def fails(told: str, mend: str, about: str = "", exit_code: int = MachineError.exit_code) -> Found:
    return Found("fails", told, mend, about, exit_code)


def examine(home: Home) -> Iterator[Found]:
    """Look at every seam, in order; each finding comes as soon as it is made, whatever is broken."""
    for seam, checks in SEAMS.items():
        for check in checks:
            states = set()
            for found in look(home, seam, check):
                states.add(found.state)
                yield replace(found, check=check, seam=seam)
            if check in GATES and states != {"well"}:
                break


def look(home: Home, seam: str, check: str) -> Iterator[Found]:
    """One check; that it cannot be made is a finding too."""
    try:
        function: Check = getattr(importlib.import_module(f"relearn.flows.seams.{seam}"), check)
    except Exception as error:
        yield fails(f"cannot be looked at: {type(error).__name__}: {error}", "see versions, above")
        return
    try:
        with environment.impatient():
            yield from within(LIMIT, partial(function, home))
    except TimeoutError as error:
        yield fails(f"{error}: something accepts questions and hangs", MENDS.get(check, ""))
    except IntegrityError as error:
        yield fails(str(error), MENDS.get(check, ""), exit_code=error.exit_code)
    except (RelearnError, OSError) as error:
        yield fails(str(error), MENDS.get(check, ""))
    except Exception as error:
        yield fails(f"the check itself failed, {type(error).__name__}: {error}", "")


# Where a check ends by an error rather than by a finding.
MENDS = {
    "keys": "put it right, or unset RELEARN_API_KEYS_FILE",
    "store": "start what MLFLOW_TRACKING_URI names, or unset it: runs are then kept in the home",
    "artifacts": "look at the log of MLflow's server",
    "server": "start one there, or unset PREFECT_API_URL: flows then report to a temporary one",
    "servers": "end it, and start it again: relearn serve",
}
