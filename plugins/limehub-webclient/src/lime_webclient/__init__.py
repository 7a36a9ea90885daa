"""Remembers what changed lately, so that a web client knows what to reload. Fast by design.

`GET /plugins/lime_webclient/changes?application=acme&after=120`: what came after number 120.
"""

from __future__ import annotations

from lime_webclient.client import WebClient

__all__ = ["WebClient", "web_client"]

web_client = WebClient()
"""The plugin: its handler fills what its page shows, so both are methods of one object."""
