"""Validation of cron schedules."""

import asyncio
from zoneinfo import ZoneInfo

from relearn.model.errors import UserInputError

FORM = 'five fields that have a next date, such as "0 3 * * *" for three in the morning'


def check_cron(cron: str, timezone: str) -> None:
    """Raise `UserInputError` for a schedule that Prefect would not run, or at other times than it seems.

    Prefect takes a sixth field as seconds and the first as minutes, and plans nothing for a date that never
    comes.
    """
    # The code that plans the runs; its import takes 0.3 s.
    from prefect.server.schemas.schedules import CronSchedule

    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # no such file of the time zone database, or a folder of it
        accepted = "a name such as Europe/Berlin"
        raise UserInputError(f"--timezone: got {timezone!r}, accepted: {accepted}") from None
    try:
        dates = asyncio.run(CronSchedule(cron=cron, timezone=timezone).get_dates(n=1))
    except ValueError:  # invalid, or no date in the next 50 years
        dates = []
    if not dates or len(cron.split()) != 5:
        raise UserInputError(f"--cron: got {cron!r}, accepted: {FORM}")
