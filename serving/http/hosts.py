"""Checks of client address, `Host` and `Origin` on a server without API keys.

A page of another site can make a visitor's browser send requests to this machine: by DNS rebinding, where
its host name resolves to 127.0.0.1 and stands in the `Host` header, or by a form, where its address stands in
the `Origin` header.
"""

import ipaddress
import re
from functools import lru_cache

from starlette.requests import Request

from relearn.serving.http.errors import HTTPError

_HOST_PATTERN = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def check_trusted_host(request: Request) -> None:
    """Raise `HTTPError` 403 unless client and `Host` are this machine and `Origin` is this server."""
    if request.client and not _is_loopback(_bracket_ipv6(request.client.host)):
        hint = "accepted: this machine; set API keys to serve other machines"
        raise HTTPError(403, "forbidden_client", f"client: got another machine, {hint}")
    host_headers = request.headers.getlist("host")
    if len(host_headers) != 1 or not _is_loopback(host_headers[0]):
        hint = "accepted: localhost, 127.0.0.1 or [::1]; set API keys to serve other machines"
        raise HTTPError(403, "forbidden_host", f"Host: got another one, {hint}")
    for origin in request.headers.getlist("origin"):
        if origin.lower() not in (f"http://{host_headers[0].lower()}", f"https://{host_headers[0].lower()}"):
            raise HTTPError(403, "forbidden_origin", "Origin: got another site, accepted: the Host itself")


def _bracket_ipv6(address: str) -> str:
    """Write a client address as in a Host header; an IPv4 address may be mapped into IPv6."""
    address = address.removeprefix("::ffff:")
    return f"[{address}]" if ":" in address else address


@lru_cache(64)  # nearly all requests have the same host; parsing it takes 20 µs
def _is_loopback(host: str) -> bool:
    host_match = _HOST_PATTERN.fullmatch(host)
    if not host_match:
        return False
    hostname = host_match["name"].strip("[]").lower()
    try:
        return hostname == "localhost" or ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False
