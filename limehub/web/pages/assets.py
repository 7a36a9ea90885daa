"""The static files: known by name, served under an address that changes with their content."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from pathlib import Path

from attrs import frozen
from flask import Response, abort, url_for

__all__ = ["asset_url", "send"]

_FOLDER = Path(__file__).parent / "static"
_NAMES = (
    "limehub.css",
    "limehub.js",
    "overview.js",
    "icon.svg",
    "vendor/htmx-2.0.11.min.js",
    "vendor/pico.lime-2.1.1.min.css",
    "vendor/uPlot-1.6.32.iife.min.js",
    "vendor/uPlot-1.6.32.min.css",
)
_FOR_EVER = "public, max-age=31536000, immutable"


@frozen(kw_only=True)
class _Asset:
    content: bytes
    media: str
    version: str


def asset_url(name: str) -> str:
    """Return the address of a static file."""
    return url_for("pages.asset", name=name, v=_asset(name).version)


def send(name: str) -> Response:
    """Answer with a static file; 404 for any other name."""
    if name not in _NAMES:
        abort(404)
    asset = _asset(name)
    response = Response(asset.content, content_type=asset.media)
    response.headers["Cache-Control"] = _FOR_EVER
    return response


@cache
def _asset(name: str) -> _Asset:
    content = (_FOLDER / name).read_bytes()
    media = mimetypes.guess_type(name)[0] or "application/octet-stream"
    is_text = media.startswith("text/")
    return _Asset(
        content=content,
        media=f"{media}; charset=utf-8" if is_text else media,
        version=hashlib.sha256(content).hexdigest()[:12],
    )
