"""Clients that may send requests; `api/test_rejections.py` has hosts and origins over a socket."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from relearn.serving.api.app import PredictionApp
from relearn.serving.api.guard import RequestGuard
from relearn.serving.config import ServeConfig
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.errors import HTTPError
from relearn.serving.http.hosts import LOCAL_HOSTS, AccessRules, AllowOriginMiddleware, describe_clients
from relearn.serving.runtime.worker_status import WorkerStatusDir

KEY = "a-key-0123456789"
ORIGIN = "https://app.example.org"


def build_request(
    host: str = "localhost", client: str = "127.0.0.1", method: str = "POST", **headers: str
) -> Request:
    raw_headers = [(b"host", host.encode("latin-1"))]
    raw_headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {"type": "http", "path": "/predict", "method": method, "headers": raw_headers, "client": (client, 5)}
    )


def get_refusal(config: ServeConfig, request: Request, *, has_keys: bool = False) -> str | None:
    """Return the error code, or None if the request is accepted."""
    try:
        AccessRules(config, has_keys).check(request)
    except HTTPError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("client", "refusal"),
    [
        *((client, None) for client in ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        *((client, "forbidden_client") for client in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7")),
    ],
)
def test_only_this_machine_is_accepted_without_keys(client: str, refusal: str | None):
    """Other machines are rejected even if the server listens publicly: a Bento can be started without us."""
    assert refusal == get_refusal(ServeConfig(), build_request(client=client))
    assert get_refusal(ServeConfig(), build_request(client=client), has_keys=True) is None


@given(
    name=st.sampled_from(["forwarded", "x-real-ip", "via", "x-forwarded-for", "x-forwarded-host"])
    | st.from_regex(r"\Ax-forwarded-[a-z]{1,8}\Z"),
    value=st.sampled_from(["", "127.0.0.1", "for=127.0.0.1", "1.1 proxy"]),
)
def test_proxy_needs_keys(name: str, value: str):
    """A request that shows a proxy is rejected, whatever it says; its message names the variable to set."""
    request = build_request(**{name: value})

    with pytest.raises(HTTPError, match=f"{name}: got .*set RELEARN_API_KEYS") as error:
        AccessRules(ServeConfig(), has_keys=False).check(request)

    assert (403, "forbidden_proxy") == (error.value.http_status, error.value.code)
    assert get_refusal(ServeConfig(), request, has_keys=True) is None


@given(
    before=st.text(st.characters(max_codepoint=255), max_size=4),
    host=st.sampled_from([*LOCAL_HOSTS, "relearn.internal"]),
    after=st.text(st.characters(max_codepoint=255), max_size=4),
)
def test_only_listed_hosts_are_accepted(before: str, host: str, after: str):
    """A host that merely contains an accepted one is rejected; a port makes no difference."""
    config = ServeConfig(allow_host="relearn.internal")
    header = before + host + after
    is_accepted = not before and (
        not after or (after[0] == ":" and after[1:].isascii() and after[1:].isdigit())
    )

    assert (None if is_accepted else "forbidden_host") == get_refusal(config, build_request(header))


def test_own_hosts_hold_with_keys_too():
    """Without `--allow-host` a server with keys accepts any host; with it, only those."""
    foreign = build_request("evil.example")

    assert get_refusal(ServeConfig(), foreign, has_keys=True) is None
    assert "forbidden_host" == get_refusal(ServeConfig(allow_host="a.example"), foreign, has_keys=True)
    assert "forbidden_host" == get_refusal(ServeConfig(), foreign)
    assert get_refusal(ServeConfig(host="127.0.0.2"), build_request("127.0.0.2:3000")) is None
    assert "forbidden_host" == get_refusal(ServeConfig(host="0.0.0.0"), build_request("0.0.0.0:3000"))


@pytest.mark.parametrize("has_keys", [False, True])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"{ORIGIN}.evil.example", f"{ORIGIN}:444"])
def test_refusal_of_a_page_names_the_setting(origin: str, has_keys: bool):
    """A page of another origin, or its preflight to a server with keys, is rejected: see `--allow-origin`."""
    request = build_request(method="OPTIONS", origin=origin)

    with pytest.raises(HTTPError, match="those of --allow-origin"):
        AccessRules(ServeConfig(allow_origin=ORIGIN), has_keys).check(request)


Ask = Callable[..., httpx.Response]


@pytest.fixture
def open_app(tmp_path: Path) -> Callable[..., Ask]:
    """Return a function that sends requests to an application without a release, with CORS."""

    def open_app(keys: list[str], **settings: object) -> Ask:
        config = ServeConfig(**settings)
        app = PredictionApp(config, WorkerStatusDir(tmp_path), ApiKeys(keys))
        transport = httpx.ASGITransport(AllowOriginMiddleware(RequestGuard(app), config.allow_origin))

        async def send(method: str, path: str, **headers: str) -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                names = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.request(method, path, headers=names)

        return lambda *request, **headers: asyncio.run(send(*request, **headers))

    return open_app


PREFLIGHT = {"origin": ORIGIN, "access_control_request_method": "POST"}


def test_page_of_an_allowed_origin_may_ask(open_app: Callable[..., Ask]):
    """Its preflight passes without a key, and it may read the responses, errors included."""
    ask = open_app([KEY], allow_origin=ORIGIN)

    allowed = ask(
        "OPTIONS",
        "/predict",
        **PREFLIGHT,
        access_control_request_headers="content-type, x-api-key, authorization",
    )
    predicted = ask("POST", "/predict", origin=ORIGIN, x_api_key=KEY)
    without_key = ask("POST", "/predict", origin=ORIGIN)

    assert [200, 503, 401] == [allowed.status_code, predicted.status_code, without_key.status_code]
    for response in (allowed, predicted, without_key):
        assert ORIGIN == response.headers["access-control-allow-origin"]
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"origin": "https://evil.example"}, "Origin: got another site, accepted: .* --allow-origin"),
        ({"access_control_request_method": "DELETE"}, "preflight: got another method or header, .* GET and"),
        ({"access_control_request_headers": "x-other"}, "preflight: got another method .*, x-api-key, "),
    ],
)
def test_other_preflights_get_the_error_format(
    open_app: Callable[..., Ask], changed: dict[str, str], message: str
):
    """Another origin, method or header gets 403 as JSON, which says which of them and what is accepted."""
    response = open_app([], allow_origin=ORIGIN)("OPTIONS", "/predict", **PREFLIGHT | changed)

    error = response.json()["error"]
    assert (403, "forbidden_origin") == (response.status_code, error["code"])
    assert re.match(message, error["message"])
    assert error["request_id"] == response.headers["x-request-id"]
    assert "access-control-allow-origin" not in response.headers


def test_feedback_needs_a_key_where_other_pages_may_ask(open_app: Callable[..., Ask]):
    """Without keys, predictions are open to the allowed origins, feedback is not."""
    ask = open_app([], allow_origin=ORIGIN)

    predicted, feedback = ask("POST", "/predict", origin=ORIGIN), ask("POST", "/feedback", origin=ORIGIN)
    own_feedback = open_app([])("POST", "/feedback")

    assert [503, 401, 503] == [predicted.status_code, feedback.status_code, own_feedback.status_code]
    assert "set RELEARN_API_KEYS" in feedback.json()["error"]["message"]


def test_start_says_who_may_ask():
    """The sentence has machines, keys and pages."""
    local, public = ServeConfig(allow_origin=ORIGIN), ServeConfig(host="0.0.0.0")

    assert (
        f"Accepts requests from this machine without an API key, and pages of {ORIGIN}; a proxy needs"
        " RELEARN_API_KEYS."
    ) == describe_clients(local, has_keys=False)
    assert "Accepts requests from all machines with an API key." == describe_clients(public, has_keys=True)
