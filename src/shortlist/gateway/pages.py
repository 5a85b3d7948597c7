"""The files for browsers, read once: the live page, the API's page, the tracker. Nothing comes from another host."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from shortlist.gateway.refusals import HttpError

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
TRACKER = "tracker.js"


class Pages:
    """The files under static/, by name."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}

    async def home(self, _: Request) -> Response:
        """The live page."""
        return self._file("live.html")

    async def docs(self, _: Request) -> Response:
        """The page of the API."""
        return self._file("docs.html")

    async def tracker(self, _: Request) -> Response:
        """The tracker, which pages of other hosts may load."""
        headers = {"cross-origin-resource-policy": "cross-origin", "cache-control": "public, max-age=300"}
        return self._file(TRACKER, headers)

    async def static(self, _: Request, name: str) -> Response:
        """One of the files that the pages load."""
        return self._file(name)

    def _file(self, name: str, headers: dict[str, str] | None = None) -> Response:
        if name not in self._files:
            raise HttpError(404, "no such file")
        return Response(self._files[name], headers=headers, media_type=_TYPES[Path(name).suffix])
