"""Trusted clients of a server without API keys; `api/test_rejections.py` has hosts and origins."""

import pytest
from starlette.requests import Request

from relearn.serving.http.errors import HTTPError
from relearn.serving.http.hosts import check_trusted_host


@pytest.mark.parametrize(
    ("client", "is_accepted"),
    [
        *((client, True) for client in ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        *((client, False) for client in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7")),
    ],
)
def test_only_this_machine_is_accepted_without_keys(client: str, is_accepted: bool):
    """Other machines are rejected even if the server listens publicly: a Bento can be started without us."""
    request = Request({"type": "http", "headers": [(b"host", b"localhost")], "client": (client, 50_000)})
    if is_accepted:
        check_trusted_host(request)
    else:
        with pytest.raises(HTTPError, match="client: got another machine"):
            check_trusted_host(request)
