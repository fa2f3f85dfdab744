"""Clients that may send requests: machines, host names, proxies, and pages of other origins.

A page of another site can make a visitor's browser send requests to this machine: by DNS rebinding, where
its host name resolves to 127.0.0.1 and stands in the `Host` header, or by a form, where its address stands in
the `Origin` header. A proxy on this machine makes every client look like this machine.
"""

import ipaddress
import re
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.http import requests
from relearn.serving.http.errors import HTTPError, build_error_response

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
HEADERS_OF_PAGES = ("authorization", "x-api-key", requests.REQUEST_ID_HEADER.decode())
_PORT = re.compile(r":[0-9]{1,5}\Z")
_PROXY_HEADERS = frozenset((b"forwarded", b"x-real-ip", b"via"))  # and x-forwarded-for, -host, -proto, …


class AccessRules:
    """Rules for requests before their API key is checked; a server with keys has few of them.

    Starlette's `TrustedHostMiddleware` is not used: it reads the first of several `Host` headers, and its
    refusal is plain text.
    """

    def __init__(self, config: ServeConfig, has_keys: bool) -> None:
        self.has_keys = has_keys
        self.origins = config.allow_origin
        own_hosts = {*LOCAL_HOSTS, *config.allow_host} | ({config.host} if config.is_local else set())
        self.hosts = None if has_keys and not config.allow_host else own_hosts

    def check(self, request: Request) -> None:
        """Raise `HTTPError` 403 for a client, proxy, `Host` or `Origin` that may not ask.

        With API keys only `--allow-host` and preflights are checked. Raise 401 for feedback without keys if
        pages of other origins may ask.
        """
        if not self.has_keys:
            _check_client(request)
        hosts, origins = (
            [value.lower() for value in requests.get_header_values(request, name)]
            for name in (b"host", b"origin")
        )
        if self.hosts and not (len(hosts) == 1 and _PORT.sub("", hosts[0]) in self.hosts):
            hint = f"accepted: {', '.join(sorted(self.hosts))}; add others with --allow-host"
            raise HTTPError(403, "forbidden_host", f"Host: got another one, {hint}")
        if origins and (not self.has_keys or request.method == "OPTIONS"):
            own_origins = {f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")}
            if not {*origins} <= {*own_origins, *self.origins}:
                raise forbidden_origin_error()
        if self.origins and not self.has_keys and request.scope["path"] == "/feedback":
            hint = f"accepted: a key, since --allow-origin is set; set {API_KEYS}"
            raise HTTPError(401, "missing_key", f"key: got none, {hint}", {"www-authenticate": "Bearer"})


class AllowOriginMiddleware(CORSMiddleware):
    """CORS for the pages of `origins`; the refusal of a preflight has the format of all errors."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=HEADERS_OF_PAGES,
            expose_headers=(requests.REQUEST_ID_HEADER.decode(), "retry-after"),
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return Starlette's response, or 403 in place of its 400."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        request_id, error = requests.create_request_id(), forbidden_origin_error()
        if self.is_allowed_origin(request_headers["origin"]):
            accepted = f"GET and POST, with {', '.join(HEADERS_OF_PAGES)} and content-type"
            message = f"preflight: got another method or header, accepted: {accepted}"
            error = HTTPError(403, "forbidden_origin", message)
        response = build_error_response(error, request_id)
        response.raw_headers += requests.build_headers(request_id)
        return response


def forbidden_origin_error() -> HTTPError:
    """Return the error for a page that may not ask."""
    hint = "accepted: this server's own, and those of --allow-origin with a key in its header"
    return HTTPError(403, "forbidden_origin", f"Origin: got another site, {hint}")


def describe_clients(config: ServeConfig, has_keys: bool) -> str:
    """Return one sentence about who may send requests."""
    machines = "this machine" if config.is_local else "all machines"
    pages = f", and pages of {', '.join(config.allow_origin)}" if config.allow_origin else ""
    if has_keys:
        return f"Accepts requests from {machines} with an API key{pages}."
    return f"Accepts requests from this machine without an API key{pages}; a proxy needs {API_KEYS}."


def _check_client(request: Request) -> None:
    """Raise `HTTPError` 403 for another machine, or a proxy, which may ask for other machines."""
    for name, _ in request.scope["headers"]:
        if name in _PROXY_HEADERS or name.startswith(b"x-forwarded-"):
            header, hint = name.decode("latin-1"), f"accepted with API keys only; set {API_KEYS}"
            raise HTTPError(403, "forbidden_proxy", f"{header}: got a request through a proxy, {hint}")
    if request.client and not _is_loopback(request.client.host):
        hint = f"accepted: this machine; set {API_KEYS} to serve other machines"
        raise HTTPError(403, "forbidden_client", f"client: got another machine, {hint}")


@lru_cache(64)  # nearly all requests have the same client; parsing its address takes 20 µs
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
