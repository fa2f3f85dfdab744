"""Where a request says it goes, and comes from: what a server without keys has to go by.

A page of another site can have the browser of whoever opens it send requests to this machine: under a name
of its own that suddenly means 127.0.0.1 (DNS rebinding), which shows in `Host`, or by a form, which shows
in `Origin`.
"""

import ipaddress
import re
from functools import lru_cache

from starlette.requests import Request

from relearn.serving.guard import Refusal

_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def check(request: Request) -> None:
    """Raise `Refusal` 403 for a client or Host that is not this machine, or another site's Origin."""
    if request.client and not _is_loopback(_bracketed(request.client.host)):
        accepted = "accepted: this machine; a server for others has API keys"
        raise Refusal(403, "forbidden_client", f"client: got another machine, {accepted}")
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        accepted = "accepted: localhost, 127.0.0.1 or [::1]; a server for others has API keys"
        raise Refusal(403, "forbidden_host", f"Host: got another one, {accepted}")
    for origin in request.headers.getlist("origin"):
        if origin.lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
            raise Refusal(403, "forbidden_origin", "Origin: got another site, accepted: the Host itself")


def _bracketed(address: str) -> str:
    """As it would stand in a Host; an IPv4 address may have been mapped into IPv6."""
    address = address.removeprefix("::ffff:")
    return f"[{address}]" if ":" in address else address


@lru_cache(64)  # nearly every request has one and the same; looking at it costs 20 µs
def _is_loopback(host: str) -> bool:
    parts = _HOST.fullmatch(host)
    if not parts:
        return False
    name = parts["name"].strip("[]").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
