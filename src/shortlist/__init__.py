"""Shortlist: a ranking server for hyper-personalised recommendation.

The names below are the public ones. They load on first use, so that a client needs neither torch nor FAISS in memory.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shortlist.bundle import Bundle
    from shortlist.cascade import Cascade
    from shortlist.config import Config
    from shortlist.serving.client import AsyncClient, Client
    from shortlist.serving.tls import Tls
    from shortlist.types import Request, Slate

# ONNX Runtime (since 1.29) writes a device id and reports each process to its maker, unless told not to before import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["AsyncClient", "Bundle", "Cascade", "Client", "Config", "Request", "Slate", "Tls"]

_HOMES = {
    "AsyncClient": "shortlist.serving.client",
    "Bundle": "shortlist.bundle",
    "Cascade": "shortlist.cascade",
    "Client": "shortlist.serving.client",
    "Config": "shortlist.config",
    "Request": "shortlist.types",
    "Slate": "shortlist.types",
    "Tls": "shortlist.serving.tls",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shortlist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
