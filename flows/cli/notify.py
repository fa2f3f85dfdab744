"""`relearn notify`: messages to people about releases, drift and failures."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from relearn.flows.cli.sources import NOTIFY_URL, given_values
from relearn.flows.scheduling.prefect_context import prefect_context
from relearn.flows.terminal.console import make_console, print_note
from relearn.flows.terminal.next_step import print_next
from relearn.model.errors import UserInputError
from relearn.model.home import Home


def notify(
    *,
    url_file: Path | None = None,
    silence_days: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=365))] = 7,
    test: Annotated[bool, Parameter(negative=())] = False,
    off: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Send messages by mail, Slack or webhook: releases, drift, failed runs, nothing trained for days.

    The address is secret, so it is read from --url-file or from RELEARN_NOTIFY_URL. It is one of apprise,
    such as mailto://…, slack://…, or jsons://HOST/PATH for a webhook. Prefect stores it encrypted, and sends
    while `relearn up` runs.

    Example: `relearn notify --url-file address.txt --test`

    Parameters
    ----------
    url_file
        File whose first line is the address.
    silence_days
        Days without a new training after which a message is sent.
    test
        Send a message now.
    off
        Delete the address; nothing is sent any longer.
    """
    address = _read_address(url_file)
    flags = {name for name, value in given_values.items() if value.source == "cli"}
    if off and flags != {"off"}:
        raise UserInputError("--off: got another flag as well, accepted: --off alone")
    if "silence_days" in flags and not address:
        raise UserInputError(f"--silence-days: got no address, accepted: with --url-file or {NOTIFY_URL}")
    with prefect_context(Home.from_environment()) as ui_url:
        from relearn.flows.scheduling import notifications

        if off:
            notifications.turn_off()
        elif address:
            notifications.turn_on(address, silence_days)
        if test:
            notifications.send_test()
        is_on = notifications.is_on()
    make_console().print("messages are on" if is_on else "no messages are sent: there is no address")
    if test:
        print_note("a test message was taken by the service of the address")
    if not is_on and not off:
        print_next("notify", "--url-file", "address.txt", "--test")
    elif is_on and ui_url is None:
        print_next("up")


def _read_address(file: Path | None) -> str:
    """Return the address from `file`, else from the environment; "" without one."""
    if file is None:
        return os.environ.get(NOTIFY_URL, "").strip()
    try:
        lines = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserInputError(f"--url-file: {file} cannot be read: {reason}") from None
    if not lines[0].strip():
        raise UserInputError(f"--url-file: got an empty first line in {file}, accepted: an address")
    return lines[0].strip()
