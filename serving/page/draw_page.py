"""The draw page: three files of `page/` and their security headers."""

from pathlib import Path

from starlette.responses import RedirectResponse, Response

PAGE_FOLDER = Path(__file__).parent
PAGE_FILES = {
    "/draw": ("index.html", "text/html"),
    "/draw/page.css": ("page.css", "text/css"),
    "/draw/page.js": ("page.js", "text/javascript"),
}
# The page loads its own two files, images that it creates itself, and data of this server. Inline scripts and
# styles, form submission, framing and text that becomes markup are blocked.
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
    """The page's files, read once when the worker starts; the HTML says whether an API key is needed."""

    def __init__(self, needs_key: bool = False) -> None:
        self.files = {path: (PAGE_FOLDER / name).read_bytes() for path, (name, _) in PAGE_FILES.items()}
        if needs_key:
            self.files["/draw"] = self.files["/draw"].replace(b"<body>", b'<body class="needs-key">')

    def build_file_response(self, path: str) -> Response:
        """Build the response with the file at a path of `PAGE_FILES`."""
        return Response(self.files[path], headers=PAGE_HEADERS, media_type=PAGE_FILES[path][1])

    def redirect(self) -> Response:
        """Redirect from `/` to the page; relative, because a proxy may add a path prefix."""
        return RedirectResponse("draw")
