"""The page to draw on: three files of `page/`, and what browsers are told to let it do."""

from pathlib import Path

from starlette.responses import RedirectResponse, Response

PAGE_FOLDER = Path(__file__).parent
PAGE_FILES = {
    "/draw": ("index.html", "text/html"),
    "/draw/page.css": ("page.css", "text/css"),
    "/draw/page.js": ("page.js", "text/javascript"),
}
# Nothing but its own two files, pictures that it makes itself, and this server: no script or style within
# the document, no form that leads elsewhere, in no frame, and no text that becomes markup.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
PAGE_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class DrawPage:
    """The files as they are when the worker starts; the page is told whether it needs a key."""

    def __init__(self, needs_key: bool = False) -> None:
        self.files = {path: (PAGE_FOLDER / name).read_bytes() for path, (name, _) in PAGE_FILES.items()}
        if needs_key:
            self.files["/draw"] = self.files["/draw"].replace(b"<body>", b'<body class="guarded">')

    def build_file_response(self, path: str) -> Response:
        """The file at a path of `FILES`."""
        return Response(self.files[path], headers=PAGE_HEADERS, media_type=PAGE_FILES[path][1])

    def redirect(self) -> Response:
        """From `/` to the page; relative, for a proxy may put us under a path of its own."""
        return RedirectResponse("draw")
