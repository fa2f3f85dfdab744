"""Changes to uvicorn and circus, BentoML's servers, that BentoML has no settings for.

They were made for `VERSIONS`; with others the server does not start, rather than start without them.
"""

from importlib import metadata

import uvicorn.config
from circus.sighandler import SysHandler

from relearn.model.errors import InfrastructureError

VERSIONS = {"bentoml": "1.4", "uvicorn": "0.54", "kantoku": "0.18"}  # kantoku is BentoML's fork of circus


def apply_patches() -> None:
    """Change uvicorn and circus in this process; raise `InfrastructureError` for other versions.

    HTTP protocol: slow and endless request heads, floods of connections, clients that do not read their
    response, and ambiguous HTTP are rejected. uvicorn's `limit_concurrency` and `timeout_keep_alive` bound
    none of these; its limit for heads is one of h11, a slower parser. The protocol of a worker is changed
    when this service is imported, since BentoML calls none of our code between that and uvicorn's start.

    SIGHUP: a closed terminal stops the server, after the requests in progress. circus would start new
    workers, and the server would outlive its terminal.
    """
    for library, version in VERSIONS.items():
        installed = metadata.version(library)
        if not f"{installed}.".startswith(f"{version}."):
            raise InfrastructureError(
                f"{library}: got version {installed}, accepted: {version}; install that one, or try"
                f" {installed} with the tests of serving and change `VERSIONS` in {__name__}"
            )
    uvicorn.config.HTTP_PROTOCOLS["auto"] = "relearn.serving.http.protocol:BoundedHttpProtocol"
    SysHandler.handle_hup = SysHandler.handle_term
