"""Messages to people: automations of Prefect that send what happens to one address.

The address is an apprise URL, such as `mailto://…`, `slack://…`, or `jsons://…` for a webhook. It is a
secret: Prefect stores it encrypted, in a block, and it is never printed.

There are two automations, since a trigger waits either for events or for their absence, and a message of a
compound trigger cannot say which of its parts fired.
"""

import logging
from contextlib import suppress
from datetime import timedelta
from typing import cast

from apprise import Apprise
from prefect import get_client
from prefect.automations import Automation, EventTrigger, Posture
from prefect.blocks.abstract import NotificationError
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from pydantic import SecretStr

from relearn.flows.orchestration.events import ACCURACY_EVENT, DRIFT_EVENT, RELEASE_EVENT, resource_id
from relearn.flows.orchestration.prefect_api import FLOWS
from relearn.model.errors import InfrastructureError, UserInputError

BLOCK_NAME = "relearn-notifications"
EVENT_AUTOMATION = "relearn: notify of releases, drift and failures"
SILENCE_AUTOMATION = "relearn: notify when nothing was trained"
ACCEPTED = "an address of apprise, such as mailto://…, slack://…, or jsons://HOST/PATH for a webhook"
FAILURE_EVENTS = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed")}
# An event of a flow has its reason, a failed run the message of its state.
EVENT_BODY = (
    "{% if event.payload.reason %}{{ event.payload.name }}: {{ event.payload.reason }}"
    "{% else %}{{ event.resource.name }} {{ event.event.split('.') | last | lower }}: "
    "{{ event.payload.validated_state.message }}{% endif %}"
)


def check_address(address: str) -> None:
    """Raise `UserInputError` for an address that apprise cannot send to; the message does not contain it."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would log the address
    if not Apprise().add(address):
        scheme = address.partition("://")[0] if "://" in address else ""
        got = f"one of the form {scheme}://…" if scheme.isalnum() else "one without a scheme"
        raise UserInputError(f"address of notifications: got {got}, accepted: {ACCEPTED}")


def turn_on(address: str, silence_days: float) -> None:
    """Store the address, in place of an earlier one, and make the automations that send to it.

    Messages are sent when a candidate is released, held or rejected, for drift and low accuracy, for failed
    runs, and if no candidate of a model was judged for `silence_days`. Raises `UserInputError` for an address
    that apprise does not know.
    """
    check_address(address)
    block_id = SlackWebhook(url=SecretStr(address)).save(BLOCK_NAME, overwrite=True)  # takes any address
    automations = [
        Automation(
            name=EVENT_AUTOMATION,
            description="One message for each event; relearn notify sets the address.",
            trigger=EventTrigger(
                expect={RELEASE_EVENT, DRIFT_EVENT, ACCURACY_EVENT, *FAILURE_EVENTS},
                # Of a failed release its retraining fails too; by hand it fails before the eyes of a person.
                match={"prefect.resource.name": "!release *"},
                match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[SendNotification(block_document_id=block_id, subject="Relearn", body=EVENT_BODY)],
        ),
        Automation(
            name=SILENCE_AUTOMATION,
            description="For each model that was trained before; relearn notify sets the address.",
            trigger=EventTrigger(
                after={RELEASE_EVENT},
                expect={RELEASE_EVENT},
                match={"prefect.resource.id": resource_id("*")},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(days=silence_days),
            ),
            actions=[
                SendNotification(
                    block_document_id=block_id,
                    subject="Relearn",
                    body="{{ event.payload.name }}: nothing new was trained for "
                    f"{silence_days:g} days; relearn status shows the schedule",
                )
            ],
        ),
    ]
    with get_client(sync_client=True) as client:
        _delete_automations(client)
        for automation in automations:
            automation.create()


def turn_off() -> None:
    """Delete the automations and the address."""
    with get_client(sync_client=True) as client:
        _delete_automations(client)
    if is_on():
        SlackWebhook.delete(BLOCK_NAME)


def is_on() -> bool:
    """Return whether an address is stored."""
    return _load_block() is not None


def send_test() -> None:
    """Send a message now; raise `UserInputError` without an address, `InfrastructureError` if it fails."""
    block = _load_block()
    if block is None:
        raise UserInputError(f"--test: got no address of notifications, accepted: {ACCEPTED}")
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    with block.raise_on_failure():
        try:
            block.notify("This is a test: messages of Relearn arrive here.", "Relearn")
        except NotificationError:  # its log may contain the address
            raise InfrastructureError(
                "the address did not take the test message: compare it with the service that it names"
            ) from None


def _load_block() -> SlackWebhook | None:
    with suppress(ValueError):  # there is no such block
        return cast("SlackWebhook", SlackWebhook.load(BLOCK_NAME))  # no coroutine outside of an event loop
    return None


def _delete_automations(client: SyncPrefectClient) -> None:
    for name in (EVENT_AUTOMATION, SILENCE_AUTOMATION):
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
