"""The page to draw on: three files of `page/`, and what browsers are told to let it do."""

from pathlib import Path

from starlette.responses import RedirectResponse, Response

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/draw": ("index.html", "text/html"),
    "/draw/page.css": ("page.css", "text/css"),
    "/draw/page.js": ("page.js", "text/javascript"),
}
# Nothing but its own two files, pictures that it makes itself, and this server: no script or style within
# the document, no form that leads elsewhere, in no frame, and no text that becomes markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Page:
    """The files as they are when the worker starts; the page is told whether it needs a key."""

    def __init__(self, needs_key: bool = False) -> None:
        self.files = {path: (FOLDER / name).read_bytes() for path, (name, _) in FILES.items()}
        if needs_key:
            self.files["/draw"] = self.files["/draw"].replace(b"<body>", b'<body class="guarded">')

    def answer(self, path: str) -> Response:
        """The file at a path of `FILES`."""
        return Response(self.files[path], headers=HEADERS, media_type=FILES[path][1])

    def lead(self) -> Response:
        """From `/` to the page; relative, for a proxy may put us under a path of its own."""
        return RedirectResponse("draw")
