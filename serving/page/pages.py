"""The pages: `/draw`, to draw an image and see its prediction, and `/docs`, to read and try the API.

`/docs` shows `/openapi.json` with swagger-ui, whose files are in BentoML's package. All files are served with
security headers.
"""

from importlib.metadata import distribution
from pathlib import Path

from starlette.responses import RedirectResponse, Response

PAGE_FOLDER = Path(__file__).parent
SWAGGER_FOLDER = Path(str(distribution("bentoml").locate_file("bentoml/_internal/server/static_content")))
PAGE_FILES = {
    "/draw": (PAGE_FOLDER / "index.html", "text/html"),
    "/draw/page.css": (PAGE_FOLDER / "page.css", "text/css"),
    "/draw/page.js": (PAGE_FOLDER / "page.js", "text/javascript"),
    "/docs": (PAGE_FOLDER / "docs.html", "text/html"),
    "/docs/docs.js": (PAGE_FOLDER / "docs.js", "text/javascript"),
    "/docs/swagger-ui.css": (SWAGGER_FOLDER / "swagger-ui.css", "text/css"),
    "/docs/swagger-ui-bundle.js": (SWAGGER_FOLDER / "swagger-ui-bundle.js", "text/javascript"),
}
# A page loads its own files, images that it creates itself, and data of this server. Inline scripts and
# styles, form submission, framing and, on the draw page, text that becomes markup are blocked.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": f"{CONTENT_SECURITY_POLICY}; require-trusted-types-for 'script'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
# swagger-ui writes descriptions as markup, which trusted types block; it removes scripts from them itself.
DOCS_HEADERS = PAGE_HEADERS | {"content-security-policy": CONTENT_SECURITY_POLICY}


class Pages:
    """Responses with the files of both pages. With `needs_key` the draw page asks for an API key."""

    def __init__(self, needs_key: bool = False) -> None:
        self.needs_key = needs_key

    def build_file_response(self, path: str) -> Response:
        """Read the file at a path of `PAGE_FILES`, up to 1.5 MB, and build the response with it."""
        file, media_type = PAGE_FILES[path]
        content = file.read_bytes()
        if self.needs_key and path == "/draw":
            content = content.replace(b"<body>", b'<body class="needs-key">')
        headers = DOCS_HEADERS if path.startswith("/docs") else PAGE_HEADERS
        return Response(content, headers=headers, media_type=media_type)

    def redirect(self) -> Response:
        """Redirect from `/` to the draw page; relative, because a proxy may add a path prefix."""
        return RedirectResponse("draw")
