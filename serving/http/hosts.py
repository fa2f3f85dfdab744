"""Where a request says it goes, and comes from: what a server without keys has to go by.

A page of another site can have the browser of whoever opens it send requests to this machine: under a name
of its own that suddenly means 127.0.0.1 (DNS rebinding), which shows in `Host`, or by a form, which shows
in `Origin`.
"""

import ipaddress
import re
from functools import lru_cache

from starlette.requests import Request

from relearn.serving.http.requests import HTTPError

_HOST_PATTERN = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def check_trusted_host(request: Request) -> None:
    """Raise `Refusal` 403 for a client or Host that is not this machine, or another site's Origin."""
    if request.client and not _is_loopback(_bracket_ipv6(request.client.host)):
        hint = "accepted: this machine; a server for others has API keys"
        raise HTTPError(403, "forbidden_client", f"client: got another machine, {hint}")
    host_headers = request.headers.getlist("host")
    if len(host_headers) != 1 or not _is_loopback(host_headers[0]):
        hint = "accepted: localhost, 127.0.0.1 or [::1]; a server for others has API keys"
        raise HTTPError(403, "forbidden_host", f"Host: got another one, {hint}")
    for origin in request.headers.getlist("origin"):
        if origin.lower() not in (f"http://{host_headers[0].lower()}", f"https://{host_headers[0].lower()}"):
            raise HTTPError(403, "forbidden_origin", "Origin: got another site, accepted: the Host itself")


def _bracket_ipv6(address: str) -> str:
    """As it would stand in a Host; an IPv4 address may have been mapped into IPv6."""
    address = address.removeprefix("::ffff:")
    return f"[{address}]" if ":" in address else address


@lru_cache(64)  # nearly every request has one and the same; looking at it costs 20 µs
def _is_loopback(host: str) -> bool:
    host_match = _HOST_PATTERN.fullmatch(host)
    if not host_match:
        return False
    hostname = host_match["name"].strip("[]").lower()
    try:
        return hostname == "localhost" or ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False
